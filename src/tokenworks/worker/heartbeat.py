"""Tells the gateways every second that this worker lives, however long a step takes.

It runs in a thread of its own, on sockets of its own. A step loop that has not come round for `STALL_S` is stuck for
good (no step takes that long): the beats then stop, the gateways' lease runs out, and traffic goes elsewhere. A gateway
that does not know this worker answers `Rejoin`, which is passed on to the step loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

import zmq

from tokenworks.contract.wire import Heartbeat, Load, Rejoin
from tokenworks.worker.link import GatewayLink

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
STALL_S: Final = 180.0


class HeartbeatThread(threading.Thread):
    """Beats until `stop`; `rejoins` receives the index of each gateway that asks for a new hello."""

    def __init__(self, worker_id: str, addresses: Sequence[str], load: Callable[[], Load]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.rejoins: SimpleQueue[int] = SimpleQueue()
        self._worker_id = worker_id
        self._addresses = addresses
        self._load = load
        self._stopped = threading.Event()
        self._last_round = time.monotonic()

    def came_round(self) -> None:
        """The step loop says that it is not stuck."""
        self._last_round = time.monotonic()

    def beat(self) -> Heartbeat:
        """What is told now; by the step loop too, as its last word but one. Safe in any thread."""
        return Heartbeat(self._worker_id, self._load())

    def stop(self) -> None:
        """End the thread, soon."""
        self._stopped.set()

    def run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        links = [GatewayLink(context, address) for address in self._addresses]
        while not self._stopped.wait(INTERVAL_S):
            if time.monotonic() - self._last_round < STALL_S:
                self._try_to_send(links)
        for link in links:
            link.close()
        context.term()

    def _try_to_send(self, links: Sequence[GatewayLink]) -> None:
        """What cannot be read of the machine now may be read a second later; a thread that ends is the worker's end."""
        try:
            self._send(links)
        except Exception:
            log.exception("this second's heartbeat failed")

    def _send(self, links: Sequence[GatewayLink]) -> None:
        beat = self.beat()
        for index, link in enumerate(links):
            link.send(beat)
            if any(isinstance(message, Rejoin) for message in link.receive()):
                self.rejoins.put(index)
