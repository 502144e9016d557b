"""The lines to the gateways on an event loop: frames in by callback, outputs out in one frame a turn of the loop.

ZeroMQ signals its descriptor once per batch of commands: every read takes all there is, and every send is followed by a
look at whether it consumed a signal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import zmq

from tokenworks.contract.wire import Message, SequenceOutput, StepOutput, ToWorker
from tokenworks.worker.link import GatewayLink

log = logging.getLogger(__name__)


class GatewayLinks:
    """All gateways. `on_message(gateway, message)` and `on_deaf(gateway)` are called on the event loop.

    A gateway is deaf when it has stopped reading: what runs for it is of use to nobody.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        on_message: Callable[[int, ToWorker], None],
        on_deaf: Callable[[int], None],
    ) -> None:
        self._on_message = on_message
        self._on_deaf = on_deaf
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links = [GatewayLink(self._context, address) for address in addresses]
        self._outboxes: list[list[SequenceOutput]] = [[] for _ in addresses]
        for index, link in enumerate(self._links):
            self._loop.add_reader(int(link.socket.getsockopt(zmq.FD)), self._read, index)
            self._loop.call_soon(self._read, index)

    def __len__(self) -> int:
        return len(self._links)

    def send(self, index: int, message: Message) -> None:
        """Queue a message for one gateway, behind the outputs that wait."""
        self._flush(index)
        self._send(index, message)

    def send_all(self, message: Message) -> None:
        """Queue a message for each gateway."""
        for index in range(len(self._links)):
            self.send(index, message)

    def give(self, index: int, output: SequenceOutput) -> None:
        """Hand over an output; those of one turn of the loop share a frame."""
        if not self._outboxes[index]:
            self._loop.call_soon(self._flush, index)
        self._outboxes[index].append(output)

    def close(self) -> None:
        """Send what waits, then let go of the sockets."""
        for index, link in enumerate(self._links):
            self._flush(index)
            self._loop.remove_reader(int(link.socket.getsockopt(zmq.FD)))
            link.close()
        self._context.term()

    def _flush(self, index: int) -> None:
        outputs, self._outboxes[index] = self._outboxes[index], []
        if outputs:
            self._send(index, StepOutput(outputs))

    def _send(self, index: int, message: Message) -> None:
        link = self._links[index]
        if link.socket.closed:
            return
        if not link.send(message):
            log.error("gateway %s has stopped reading: its requests are dropped", link.address)
            self._loop.call_soon(self._on_deaf, index)
        if int(link.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._read, index)

    def _read(self, index: int) -> None:
        if self._links[index].socket.closed:
            return
        for message in self._links[index].receive():
            self._on_message(index, message)
