"""Sendings that were cancelled, and whose workers have yet to say what they spent on them.

Nobody waits for them but the record of their request: a worker that has not told within a lease never will, and neither
will one that is lost. Bounded: beyond `MAX_UNTOLD` the oldest is given up.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from tokenworks.contract.wire import SequenceOutput
from tokenworks.gateway.pool.legs import OUTCOMES, Sending, Trail
from tokenworks.gateway.pool.registry import Worker

MAX_UNTOLD: Final = 10_000


class _Farewell(NamedTuple):
    sending: Sending
    trail: Trail
    until_ns: int


class Farewells:
    """By id on the wire, in the order in which they were cancelled."""

    def __init__(self, patience_s: float) -> None:
        self._patience_ns = int(patience_s * 1e9)
        self._open: dict[str, _Farewell] = {}

    def __len__(self) -> int:
        return len(self._open)

    def expect(self, wire_id: str, sending: Sending, trail: Trail) -> None:
        """Its worker was told to stop."""
        if len(self._open) >= MAX_UNTOLD:
            self._close(next(iter(self._open)))
        self._open[wire_id] = _Farewell(sending, trail, time.monotonic_ns() + self._patience_ns)
        trail.num_untold += 1

    def hear(self, worker: Worker, output: SequenceOutput, now_ns: int) -> None:
        """An output that nobody waits for: a last word counts, tokens do not."""
        farewell = self._open.get(output.request_id)
        if farewell is None or output.end is None or farewell.sending.worker is not worker:
            return
        farewell.sending.end(now_ns, OUTCOMES[output.end.reason], output.end.report)
        self._close(output.request_id)

    def lose(self, worker: Worker) -> None:
        """A worker that is gone tells no more."""
        for wire_id in [name for name, farewell in self._open.items() if farewell.sending.worker is worker]:
            self._close(wire_id)

    def expire(self, now_ns: int) -> None:
        """Give up who has had its time."""
        for wire_id in [name for name, farewell in self._open.items() if farewell.until_ns <= now_ns]:
            self._close(wire_id)

    def give_up(self) -> None:
        """Nobody will be heard any more."""
        for wire_id in list(self._open):
            self._close(wire_id)

    def _close(self, wire_id: str) -> None:
        self._open.pop(wire_id).trail.told()
