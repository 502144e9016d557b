"""The bill of a window: what everything cost that was there, and what it went to. The lines sum to the total, exactly.

A worker costs its card's price for every nanosecond of its life, busy or not, and its energy where energy is priced; a
store costs what it keeps, by bytes and time, where that is priced; bytes moved cost where they are priced. That is the
total. It went to

- `tenant`: requests that ended well, as their records say (recomputed and wrongly guessed work included: a tenant's
  line is the sum of what `usage.cost` told it),
- `failed`: requests that did not: failed, timed out, given up by their client,
- `between`: a worker had work and was not in a step,
- `idle`: it had none,
- `kv`: KV kept, one line a tier,
- `unrecorded`: steps whose request has no record in this window: it runs on, died with its gateway, or ended in another
  window than it was computed in (less than nothing where the window has the records of work done before it began),
- `energy`: the same for energy, and where it is measured, what the meters saw beyond the cards' watts,
- `rounding`: each of the amounts above is rounded to a pico. Instead of `unrecorded`, where each nanosecond of the
  steps is in a record.

What no request's own work cost (`Overhead`) is shared out in proportion to that work. It is never negative: where
records tell of more work than the workers told of (it was done before the window began, or samples are missing), a
request's full cost is its own; and where no worker told anything, full costs are unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import PICO, Work, WorkerUse
from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.ledger import Ledger, StoreStretch, Window, WorkerStretch
from tokenworks.observe.tables.cost import device_cost, energy_cost, modelled_energy_cost, residence_cost
from tokenworks.observe.tables.prices import Priced, PriceList

KINDS: Final = ("tenant", "failed", "between", "idle", "kv", "unrecorded", "energy", "rounding")
MILLION: Final = 10**6


class BillLine(msgspec.Struct, frozen=True):
    """Something that money went to."""

    kind: str  # one of `KINDS`
    name: str  # the tenant, the tier; otherwise empty
    pico: int


class Overhead(NamedTuple):
    """What is shared out among requests beside their own work. Amounts are pico of the currency."""

    rest: int  # of the bill, what is in no request's own cost
    worked: int  # the own cost of all requests
    is_known: bool  # False: there was work, and no worker told what its time went to

    @property
    def excess(self) -> int:
        """Of the recorded work, what is beyond the workers' whole time in the window."""
        return max(0, -self.rest)

    def full_cost(self, cost: int) -> int | None:
        """Own cost with its share of the rest, in whole pico, so that groups sum to the bill to within one each."""
        if not self.is_known:
            return None
        return cost + max(0, self.rest) * cost // self.worked if self.worked else cost


class Bill(msgspec.Struct, frozen=True):
    """What a window cost. Amounts are pico of the currency."""

    window: Window
    currency: str
    total: int
    lines: tuple[BillLine, ...]
    by_work: dict[Work, int]  # of the device's part of all recorded work, failed or not
    prompt_tokens: int
    output_tokens: int
    saved: int  # by tokens found instead of computed; no part of the total
    unpriced_workers: tuple[str, ...]  # of which no price was stated: their time is in no amount
    is_energy_modelled: bool  # from watts that somebody stated, at least in part
    overhead: Overhead

    @property
    def per_million_tokens(self) -> float | None:
        """All of it over all tokens, prompt and output, in the currency."""
        return _per_million(self.total, self.prompt_tokens + self.output_tokens)

    @property
    def per_million_output_tokens(self) -> float | None:
        """All of it over the output tokens, in the currency."""
        return _per_million(self.total, self.output_tokens)

    def of(self, kind: str) -> int:
        """The sum of one kind's lines."""
        return sum(line.pico for line in self.lines if line.kind == kind)

    def as_json(self) -> dict[str, Any]:
        """For printing: amounts in the currency, and in whole pico where somebody wants to add them up exactly."""
        return {
            "currency": self.currency,
            "from_ns": self.window.start_ns,
            "until_ns": self.window.end_ns,
            "total": self.total / PICO,
            "total_pico": self.total,
            "lines": [
                {"kind": line.kind, "name": line.name, "amount": line.pico / PICO, "pico": line.pico}
                for line in self.lines
            ],
            "by_work": {work.value: amount / PICO for work, amount in self.by_work.items()},
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "per_million_tokens": self.per_million_tokens,
            "per_million_output_tokens": self.per_million_output_tokens,
            "saved": self.saved / PICO,
            "unpriced_workers": list(self.unpriced_workers),
            "is_energy_modelled": self.is_energy_modelled,
            "excess": self.overhead.excess / PICO,
            "is_full_cost_known": self.overhead.is_known,
        }


def bill(ledger: Ledger, window: Window, cost: CostSettings) -> Bill:
    """The bill of a window; raises LedgerError."""
    parts = PriceList(ledger, window, cost).parts(window, ledger.workers(window))
    return bill_of(window, cost.currency, ledger.cells(window, "tenant"), parts)


def bill_of(window: Window, currency: str, tenants: dict[str, Cell], parts: Sequence[Priced]) -> Bill:
    """The bill, from cells by tenant and what workers and stores did in the parts of the window."""
    workers = [stretch for part in parts for stretch in part.workers]
    recorded = merged(tenants.values())
    lives, kept, total = _owed(parts, recorded)
    amounts = {
        "failed": recorded.cost_wasted,
        "between": sum(life.between for life in lives),
        "idle": sum(life.idle for life in lives),
        _steps_residue(recorded, workers): sum(life.steps for life in lives) - sum(recorded.cost_device.values()),
        "energy": sum(life.steps_energy for life in lives) - recorded.cost_energy,
    }
    lines = [BillLine("tenant", name, cell.cost - cell.cost_wasted) for name, cell in sorted(tenants.items())]
    lines += [BillLine(kind, "", amount) for kind, amount in amounts.items()]
    lines += [BillLine("kv", tier.value, amount) for tier, amount in kept.items()]
    lines = sorted((line for line in lines if line.pico), key=lambda line: KINDS.index(line.kind))
    return Bill(
        window=window,
        currency=currency,
        total=total,
        lines=tuple(lines),
        by_work=dict(recorded.cost_device),
        prompt_tokens=recorded.prompt_tokens,
        output_tokens=recorded.output_tokens,
        saved=recorded.cost_saved,
        unpriced_workers=tuple(sorted({stretch.worker for stretch in workers if stretch.price_per_hour is None})),
        is_energy_modelled=any(life.is_energy_modelled for life in lives),
        overhead=_overhead(total, recorded, has_workers=bool(workers)),
    )


def overhead_of(parts: Sequence[Priced], recorded: Cell) -> Overhead:
    """The same without the lines: `recorded` is all that ended in the window."""
    has_workers = any(part.workers for part in parts)
    return _overhead(_owed(parts, recorded)[2], recorded, has_workers=has_workers)


def _overhead(total: int, recorded: Cell, *, has_workers: bool) -> Overhead:
    return Overhead(total - recorded.cost, recorded.cost, has_workers or not recorded.cost)


class _Life(NamedTuple):
    """What a stretch of a worker's life cost: `total` = `steps` + `steps_energy` + `between` + `idle`."""

    total: int
    steps: int
    steps_energy: int
    between: int
    idle: int
    is_energy_modelled: bool


def _owed(parts: Sequence[Priced], recorded: Cell) -> tuple[list[_Life], dict[Tier, int], int]:
    """What workers cost, what kept KV cost, and all of it."""
    lives = [_life(stretch, part.cost) for part in parts for stretch in part.workers]
    kept: dict[Tier, int] = {}
    for part in parts:
        for tier, amount in _kept(part.stores, part.cost).items():
            kept[tier] = kept.get(tier, 0) + amount
    return lives, kept, sum(life.total for life in lives) + sum(kept.values()) + recorded.cost_transfer


def _life(stretch: WorkerStretch, cost: CostSettings) -> _Life:
    """Each amount is what the life had come to at the stretch's end, rounded, less the same at its start.

    So amounts of stretches that touch add up to that of both together, however many there are.
    """
    start, end = _ends(stretch)
    price = stretch.price_per_hour or 0.0
    whole, between, idle = (
        device_cost(getattr(end, part), price) - device_cost(getattr(start, part), price)
        for part in ("wall_ns", "between_ns", "idle_ns")
    )
    energy = _energy(end, stretch.watts, cost) - _energy(start, stretch.watts, cost)
    wall_ns = max(stretch.use.wall_ns, 1)
    between_energy, idle_energy = (
        energy * part_ns // wall_ns for part_ns in (stretch.use.between_ns, stretch.use.idle_ns)
    )
    return _Life(
        total=whole + energy,
        steps=whole - between - idle,
        steps_energy=energy - between_energy - idle_energy,
        between=between + between_energy,
        idle=idle + idle_energy,
        is_energy_modelled=bool(energy) and stretch.use.energy_j is None,
    )


def _ends(stretch: WorkerStretch) -> tuple[WorkerUse, WorkerUse]:
    """What the life had come to at the stretch's ends, of what is paid for: time, and energy where it was measured."""
    before, use = stretch.before, stretch.use
    energy_j = None if use.energy_j is None else before.energy_j or 0.0
    start = WorkerUse(wall_ns=before.wall_ns, between_ns=before.between_ns, idle_ns=before.idle_ns, energy_j=energy_j)
    end = WorkerUse(
        wall_ns=before.wall_ns + use.wall_ns,
        between_ns=before.between_ns + use.between_ns,
        idle_ns=before.idle_ns + use.idle_ns,
        energy_j=None if energy_j is None or use.energy_j is None else energy_j + use.energy_j,
    )
    return start, end


def _energy(use: WorkerUse, watts: float | None, cost: CostSettings) -> int:
    """Measured where the machine can, else the card's watts for as long as the worker lived."""
    if not cost.energy_per_kwh:
        return 0
    if use.energy_j is not None:
        return energy_cost(use.energy_j, cost.energy_per_kwh)
    return modelled_energy_cost(use.wall_ns, watts or 0.0, cost.energy_per_kwh)


def _kept(stores: Iterable[StoreStretch], cost: CostSettings) -> dict[Tier, int]:
    prices = {
        Tier.HOST: cost.host_per_gb_hour,
        Tier.DISK: cost.disk_per_gb_hour,
        Tier.REMOTE: cost.remote_per_gb_hour,
    }
    kept: dict[Tier, int] = {}
    for store in stores:
        for tier, byte_s in store.byte_s.items():
            kept[tier] = kept.get(tier, 0) + residence_cost(byte_s, prices.get(tier, 0.0))
    return kept


def _steps_residue(recorded: Cell, workers: Iterable[WorkerStretch]) -> str:
    """What steps' cost that no record has must be called: nothing but rounding where the records have all the time."""
    stepped_ns = sum(sum(stretch.use.step_ns.values()) for stretch in workers)
    return "rounding" if stepped_ns == sum(recorded.device_ns.values()) else "unrecorded"


def _per_million(pico: int, tokens: int) -> float | None:
    return pico * MILLION / tokens / PICO if tokens else None
