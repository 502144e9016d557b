"""The blocks that are to be read from one tier: those that wait, in the order they were asked for, and those under way.

Pure. The queue is here and not in the threads, so that what nobody waits for any more can still be taken out.

Invariants: at most `max_under_way` reads are under way; a block that is wanted twice is read once.
"""

from __future__ import annotations

from collections import OrderedDict

from tokenworks.contract.kv import BlockName


class ReadQueue:
    """Of one tier."""

    def __init__(self, max_under_way: int) -> None:
        self._max_under_way = max_under_way
        self._waiting: OrderedDict[BlockName, None] = OrderedDict()
        self._under_way: dict[BlockName, tuple[float, int]] = {}  # since when, bytes

    def __contains__(self, name: BlockName) -> bool:
        """Whether it is being read or waits for it."""
        return name in self._waiting or name in self._under_way

    @property
    def is_busy(self) -> bool:
        """Whether something is being read."""
        return bool(self._under_way)

    def want(self, name: BlockName) -> None:
        """Have a block read, after those that are waiting."""
        if name not in self._under_way:
            self._waiting[name] = None

    def cancel(self, name: BlockName) -> None:
        """Nobody waits for it any more; a read that is under way goes on."""
        self._waiting.pop(name, None)

    def next(self) -> BlockName | None:
        """The block to read now, if one more may be under way; then say `started`."""
        if len(self._under_way) >= self._max_under_way or not self._waiting:
            return None
        return self._waiting.popitem(last=False)[0]

    def started(self, name: BlockName, num_bytes: int, now_s: float) -> None:
        """It is being read."""
        self._under_way[name] = (now_s, num_bytes)

    def ended(self, name: BlockName) -> None:
        """It is not being read any more, well or badly."""
        self._under_way.pop(name, None)

    def take_waiting(self) -> list[BlockName]:
        """Those that have not been started, because the tier is down: they have to come from elsewhere."""
        names = list(self._waiting)
        self._waiting.clear()
        return names

    def under_way(self) -> tuple[float | None, int]:
        """Since when the oldest read runs, if one does, and the bytes of all that run."""
        oldest_s = min((since_s for since_s, _ in self._under_way.values()), default=None)
        return oldest_s, sum(size for _, size in self._under_way.values())
