"""The words that a column's formula may use, and the number that each stands for in a row.

Every number in a `Cell` and in `Machines` is a word by its own name; what is derived from several stands below. Money
is in the currency, times are in seconds. None: the row has no such thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import PICO, Stage
from tokenworks.observe.cell import Cell
from tokenworks.observe.tables.facts import Facts, Machines

Quantity = Callable[[Facts], float | None]

SLOW: Final = 2.0
"""A straggler takes more than this many times the median."""


def quantity(word: str) -> Quantity:
    """What a word stands for; raises KeyError."""
    return _QUANTITIES[word]


def is_of_requests(word: str) -> bool:
    """Whether it can be told of any stretch of time by itself: it is a sum over the requests that ended there."""
    return word in _QUANTITIES and word not in (*Machines.__struct_fields__, "full_cost", "stragglers")


def _of_cell(name: str) -> Quantity:
    return lambda facts: getattr(facts.cell, name)


def _of_machines(name: str) -> Quantity:
    return lambda facts: None if facts.machines is None else getattr(facts.machines, name)


def _cached(tier: Tier) -> Quantity:
    return lambda facts: facts.cell.cached_tokens.get(tier, 0)


def _stage(stage: Stage) -> Quantity:
    return lambda facts: facts.cell.stages_ns.get(stage, 0) / 1e9


def _stragglers(facts: Facts) -> float:
    sketch = facts.sketch("tpot")
    return sketch.count_above(SLOW * sketch.quantile(0.5)) if len(sketch) else 0


_QUANTITIES: Final[dict[str, Quantity]] = {
    **{field.name: _of_cell(field.name) for field in msgspec.structs.fields(Cell) if field.type in (int, float)},
    **{name: _of_machines(name) for name in Machines.__struct_fields__},
    **{f"cached_{tier.value}": _cached(tier) for tier in Tier},
    **{f"{stage.value}_s": _stage(stage) for stage in Stage},
    "valid": lambda facts: facts.cell.valid,
    "promised": lambda facts: facts.cell.promised,
    "seconds": lambda facts: facts.seconds,
    "e2e_s": lambda facts: facts.cell.e2e_ns / 1e9,
    "tokens": lambda facts: facts.cell.prompt_tokens + facts.cell.output_tokens,
    "million_tokens": lambda facts: (facts.cell.prompt_tokens + facts.cell.output_tokens) / 1e6,
    "million_output": lambda facts: facts.cell.output_tokens / 1e6,
    "cached_tokens": lambda facts: sum(facts.cell.cached_tokens.values()),
    "right_drafts": lambda facts: facts.cell.draft_tokens - facts.cell.rejected_tokens,
    "moved_bytes": lambda facts: sum(facts.cell.fetched_bytes.values()) + facts.cell.published_bytes,
    "cost": lambda facts: facts.cell.cost / PICO,
    "wasted": lambda facts: facts.cell.cost_wasted / PICO,
    "saved": lambda facts: facts.cell.cost_saved / PICO,
    "full_cost": lambda facts: None if facts.full_cost is None else facts.full_cost / PICO,
    "stragglers": _stragglers,
    "paced": lambda facts: len(facts.sketch("tpot")),
}
