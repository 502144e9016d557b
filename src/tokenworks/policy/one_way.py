"""How long a message lay at the door before it was looked at, though nobody saw it come.

A worker reads its messages between two steps, and a step may take a second: what came meanwhile has waited, and that
wait is the worker's, not the network's. The sender says when it sent, by a clock of its own. The difference of the two
clocks is not known, but it hardly changes; so what a message took more than the quickest of late is how long it lay
(the least of many one-way delays stands for the way alone: Paxson, "On Calibrating Measurements of Packet Transit
Times", 1998). It came after the last look in any case. Pure: told instants, in nanoseconds.
"""

from __future__ import annotations

from typing import Final

MEMORY_NS: Final = 10 * 10**9
"""The quickest of the last one to two times this: two clocks drift apart by some microseconds a second."""


class Doorstep:
    """Of one sender."""

    def __init__(self) -> None:
        self._least_ns: int | None = None  # since the turn; the difference of the clocks is in it
        self._least_before_ns: int | None = None  # in the time before that
        self._turned_ns = 0

    def came_ns(self, sent_ns: int, seen_ns: int, last_look_ns: int) -> int:
        """When a message came that is seen now, by the clock that sees; 0 for `sent_ns`: the sender does not say."""
        if not sent_ns:
            return seen_ns
        self._note(seen_ns - sent_ns, seen_ns)
        known = [each for each in (self._least_ns, self._least_before_ns) if each is not None]
        lay_ns = seen_ns - sent_ns - min(known)
        return max(seen_ns - lay_ns, min(last_look_ns, seen_ns))

    def _note(self, delay_ns: int, seen_ns: int) -> None:
        if self._least_ns is None:
            self._turned_ns, self._least_ns = seen_ns, delay_ns
        elif seen_ns - self._turned_ns > MEMORY_NS:
            is_recent = seen_ns - self._turned_ns <= 2 * MEMORY_NS
            self._least_before_ns = self._least_ns if is_recent else None
            self._turned_ns, self._least_ns = seen_ns, delay_ns
        else:
            self._least_ns = min(self._least_ns, delay_ns)
