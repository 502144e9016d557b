"""A cell: what any set of requests came to, in sums and sketches that can be added up.

Cells are what the ledger keeps for ever and what every table is computed from: a minute of one tenant is a cell, and so
is, merged, a month of all. A request belongs to the moment in which it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import msgspec
import numpy as np

from tokenworks.contract.config import ObjectiveSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Costs, Record, Stage, Work
from tokenworks.contract.request import Scenario
from tokenworks.observe.sketch import Sketch, encode_value, encode_values, merge_encoded

SKETCHES: Final = ("ttft", "tpot", "itl", "e2e", "queue", "jitter")
Promises: TypeAlias = dict[Scenario, list[tuple[float, Callable[[Record], float | None]]]]
"""By scenario: limits in nanoseconds, and what of a record each one limits."""

_QUEUES: Final = (Stage.ADMIT, Stage.ROUTE, Stage.QUEUE)
_TIMEOUTS: Final = frozenset({"timeout", "deadline_exceeded"})
_GONE: Final = "client_gone"


class Cell(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Sums over requests. Durations in nanoseconds, money in pico of the currency."""

    requests: int = 0  # understood, whatever became of them: the sum of the next six
    ok: int = 0
    invalid: int = 0  # the client must change them (HTTP 4xx)
    rejected: int = 0  # valid, and turned away before any worker had them
    timeouts: int = 0
    gone: int = 0  # the client left
    failed: int = 0  # the rest
    good: int = 0  # ok, and every objective of the scenario kept
    sequences: int = 0
    prompt_tokens: int = 0
    cached_tokens: dict[Tier, int] = {}
    output_tokens: int = 0
    good_tokens: int = 0  # prompt and output, of the good ones
    recomputed_tokens: int = 0
    draft_tokens: int = 0
    rejected_tokens: int = 0
    preemptions: int = 0
    retries: int = 0  # legs after a refusal
    migrations: int = 0  # legs after a loss
    e2e_ns: int = 0
    stages_ns: dict[Stage, int] = {}
    device_ns: dict[Work, int] = {}
    cost_device: dict[Work, int] = {}
    cost_kv: dict[Tier, int] = {}
    cost_transfer: int = 0
    cost_energy: int = 0
    cost_wasted: int = 0  # of all that, what went to requests that did not end well
    cost_saved: int = 0  # by tokens found instead of computed; no part of the cost
    kv_byte_s: float = 0.0
    fetched_bytes: dict[Tier, int] = {}
    published_bytes: int = 0
    sketches: dict[str, bytes] = {}  # by name in `SKETCHES`, encoded

    @property
    def cost(self) -> int:
        """All of it, what was wasted included."""
        return sum(self.cost_device.values()) + sum(self.cost_kv.values()) + self.cost_transfer + self.cost_energy

    @property
    def valid(self) -> int:
        """Those that the client did right."""
        return self.requests - self.invalid

    @property
    def promised(self) -> int:
        """Those that an objective speaks of: not what the client did wrong, or did not wait for."""
        return self.valid - self.gone

    def sketch(self, name: str) -> Sketch:
        """One of the sketches, decoded; empty where nothing was counted."""
        return Sketch.decode(self.sketches.get(name, b""))


def cell_of(record: Record, costs: Costs, objectives: ObjectiveSettings) -> Cell:
    """The cell of one request."""
    reports = [leg.report for leg in record.legs if leg.report is not None]
    is_ok = record.outcome == "ok"
    is_good = keeps_objectives(record, objectives)
    gaps_ns = np.frombuffer(record.gaps_us, "<u4").astype(np.float64) * 1e3
    num_alike = record.num_alike  # of requests that no worker had: their cells are counts, times and nothing else
    return Cell(
        requests=num_alike,
        **{_outcome(record): num_alike},
        good=int(is_good),
        sequences=record.num_sequences * num_alike,
        prompt_tokens=record.prompt_tokens * num_alike,
        cached_tokens=dict(record.cached_tokens),
        output_tokens=record.output_tokens,
        good_tokens=(record.prompt_tokens + record.output_tokens) * is_good,
        recomputed_tokens=sum(report.recomputed_tokens for report in reports),
        draft_tokens=sum(report.draft_tokens for report in reports),
        rejected_tokens=sum(report.rejected_tokens for report in reports),
        preemptions=sum(report.preemptions for report in reports),
        retries=sum(leg.outcome == "refused" for leg in record.legs),
        migrations=sum(leg.outcome == "lost" for leg in record.legs),
        e2e_ns=record.e2e_ns * num_alike,
        stages_ns={stage: spent_ns * num_alike for stage, spent_ns in record.stages_ns.items()},
        device_ns=_summed(report.device_ns for report in reports),
        cost_device=dict(costs.device),
        cost_kv=dict(costs.kv),
        cost_transfer=costs.transfer,
        cost_energy=costs.energy,
        cost_wasted=0 if is_ok else costs.total,
        cost_saved=costs.saved,
        kv_byte_s=sum(report.kv_byte_s for report in reports),
        fetched_bytes=_summed(report.fetched_bytes for report in reports),
        published_bytes=sum(report.published_bytes for report in reports),
        sketches=_sketches(record, gaps_ns),
    )


def keeps_objectives(record: Record, objectives: ObjectiveSettings) -> bool:
    """Whether a request ended well and kept every promise of its scenario."""
    return record.outcome == "ok" and keeps(record, promises_of(objectives))


def promises_of(objectives: ObjectiveSettings) -> Promises:
    """What is promised in each scenario, for who asks often."""
    return {
        scenario: [(limit_s * 1e9, read) for field, read in each if (limit_s := getattr(objectives, field))]
        for scenario, each in _PROMISES.items()
    }


def keeps(record: Record, promises: Promises) -> bool:
    """Whether a request that ended well kept every one of them."""
    for limit_ns, read in promises[record.scenario]:  # noqa: SIM110 - gateways ask: half of the time that `all` takes
        if (read(record) or 0) > limit_ns:
            return False
    return True


def _outcome(record: Record) -> str:
    """The one field of a cell that counts how it ended."""
    if record.outcome == "ok":
        return "ok"
    if record.outcome == _GONE:
        return "gone"
    if record.outcome in _TIMEOUTS:
        return "timeouts"
    if is_invalid(record):
        return "invalid"
    return "rejected" if record.is_rejected else "failed"


def is_invalid(record: Record) -> bool:
    """Whether the answer told the client to change its request; one that left was told nothing."""
    return 400 <= record.status < 500 and record.outcome not in {"ok", _GONE}


def tpot_ns(record: Record) -> float | None:
    """Mean time per token after the first, as the design defines it; None for one sequence's one token, or none."""
    tokens, ttft_ns = record.output_tokens / (record.num_sequences or 1) - 1, record.ttft_ns
    return None if ttft_ns is None or tokens <= 0 else (record.e2e_ns - ttft_ns) / tokens


def _longest_gap_ns(record: Record) -> float:
    return float(np.frombuffer(record.gaps_us, "<u4").max(initial=0)) * 1e3


def merged(cells: Iterable[Cell]) -> Cell:
    """The cell of all their requests; money and times add up exactly."""
    total = Cell()
    sketches: dict[str, list[bytes]] = {}
    for cell in cells:
        for name in _NUMBERS:
            setattr(total, name, getattr(total, name) + getattr(cell, name))
        for name in _TABLES:
            _add(getattr(total, name), getattr(cell, name))
        for name, raw in cell.sketches.items():
            sketches.setdefault(name, []).append(raw)
    total.sketches = {name: merge_encoded(encoded) for name, encoded in sketches.items()}
    return total


def _sketches(record: Record, gaps_ns: np.ndarray) -> dict[str, bytes]:
    values: dict[str, float | None] = {"e2e": None, "ttft": record.ttft_ns, "tpot": tpot_ns(record)}
    if not record.is_rejected:
        values |= {"e2e": record.e2e_ns, "queue": sum(record.stages_ns.get(stage, 0) for stage in _QUEUES)}
    if len(gaps_ns) > 1:
        values["jitter"] = float(gaps_ns.std())
    found = {name: encode_value(value) for name, value in values.items() if value is not None}
    if len(gaps_ns):
        found["itl"] = encode_values(gaps_ns)
    return found


def _summed(tables: Iterable[dict[Work, int]] | Iterable[dict[Tier, int]]) -> dict:  # type: ignore[type-arg]
    total: dict[Work | Tier, int] = {}
    for table in tables:
        _add(total, table)
    return total


def _add(total: dict, table: dict) -> None:  # type: ignore[type-arg]
    for key, value in table.items():
        total[key] = total.get(key, 0) + value


_TABLES: Final = ("cached_tokens", "stages_ns", "device_ns", "cost_device", "cost_kv", "fetched_bytes")
_NUMBERS: Final = tuple(name for name in Cell.__struct_fields__ if name not in (*_TABLES, "sketches"))
_READ: Final[dict[str, Callable[[Record], float | None]]] = {
    "ttft": lambda record: record.ttft_ns,
    "tpot": tpot_ns,
    "itl": _longest_gap_ns,
    "e2e": lambda record: record.e2e_ns,
}
_PROMISES: Final = {
    scenario: [
        (field, read)
        for name, read in _READ.items()
        if (field := f"{scenario.value}_{name}_s") in ObjectiveSettings.__struct_fields__
    ]
    for scenario in Scenario
}
"""For each scenario the fields of `ObjectiveSettings`, and what of a record each one limits, in nanoseconds."""
