"""The plainest tier policy there is: takes all in, drops what was used longest ago. Computed by hand in tests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from tokenworks.contract.kv import BlockName


class LeastRecentlyUsed:
    """Same interface as `policy.tiering.TierPolicy`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._sizes: OrderedDict[BlockName, int] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        return sum(self._sizes.values())

    def wants(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> bool:
        return name not in self._sizes and num_bytes <= self.limit_bytes

    def repays(
        self, name: BlockName, parent: BlockName, recompute_s: float, write_s: float, has_parent: bool, now_s: float
    ) -> bool:
        return True

    def refuse(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> None:
        raise AssertionError("this policy refuses nothing for its cost")

    def add(self, name: BlockName, parent: BlockName, num_bytes: int, recompute_s: float, now_s: float) -> None:
        assert name not in self._sizes
        self._sizes[name] = num_bytes

    def used(self, name: BlockName, now_s: float) -> None:
        if name in self._sizes:
            self._sizes.move_to_end(name)

    def remove(self, name: BlockName) -> None:
        del self._sizes[name]

    def victims(self, num_bytes: int, is_pinned: Callable[[BlockName], bool]) -> list[BlockName]:
        names: list[BlockName] = []
        for name, size in self._sizes.items():
            if num_bytes <= 0:
                break
            if not is_pinned(name):
                names.append(name)
                num_bytes -= size
        return names
