"""Which prices held when: a window in parts in which they did not change, with what workers and stores did in each.

A worker's price is its card's and in its samples; those of energy and of kept KV are the system's. Whoever keeps the
ledger notes there what was stated, and from when on (`Ledger.prices`): so a bill stays the same, whenever it is asked
for. What was before anything was noted is at the prices of who asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tokenworks.contract.config import CostSettings
from tokenworks.observe.ledger import Ledger, StoreStretch, Window, WorkerStretch


class Priced(NamedTuple):
    """A part of a window, at one set of prices."""

    cost: CostSettings
    workers: Sequence[WorkerStretch]
    stores: Sequence[StoreStretch]


class PriceList:
    """The prices that held in a window, and what was to be paid in any part of it."""

    def __init__(self, ledger: Ledger, window: Window, stated: CostSettings) -> None:
        """`stated` by who asks. Raises LedgerError."""
        self._ledger = ledger
        self._changes = [(0, stated)]
        for from_ns, noted in ledger.prices(window):
            if _billed(noted) != _billed(self._changes[-1][1]):
                self._changes.append((from_ns, noted))

    def parts(self, window: Window, workers: Sequence[WorkerStretch]) -> list[Priced]:
        """A window, or a part of it, cut where a price changed that a bill needs; `workers` are those of all of it."""
        held = list(self._held(window))
        if len(held) == 1:
            return [Priced(held[0][1], workers, self._stores(*held[0]))]
        return [Priced(cost, self._ledger.workers(part), self._stores(part, cost)) for part, cost in held]

    def _held(self, window: Window) -> Iterator[tuple[Window, CostSettings]]:
        ends = [*(from_ns for from_ns, _ in self._changes[1:]), window.end_ns]
        for (from_ns, cost), until_ns in zip(self._changes, ends, strict=True):
            part = Window(max(from_ns, window.start_ns), min(until_ns, window.end_ns))
            if part.start_ns < part.end_ns:
                yield part, cost

    def _stores(self, window: Window, cost: CostSettings) -> Sequence[StoreStretch]:
        """What stores kept; nothing where that has no price."""
        is_priced = any((cost.host_per_gb_hour, cost.disk_per_gb_hour, cost.remote_per_gb_hour))
        return self._ledger.stores(window) if is_priced else ()


def _billed(cost: CostSettings) -> tuple[float, ...]:
    """The prices that are not in records and samples already."""
    return cost.energy_per_kwh, cost.host_per_gb_hour, cost.disk_per_gb_hour, cost.remote_per_gb_hour
