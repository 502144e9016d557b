"""What would be usual of a subject's mix of now: each tenant's figure of before, in each scenario.

A share of the whole changes when its parts do, and when what each part has of it does. That a batch job comes at night
whose documents nobody has asked about makes the first happen, and nothing is wrong; a prompt that no longer begins as
it did makes the second. What a part was before is taken where it had `MIN_REQUESTS` then; a part that is new is usual.
Nor is a cache that fills a cache that was lost, although the best stretch of such a run is its end. And what a token
cost before tells of the machine's speed then: whether a dearer worker pays is seen beside a cheaper one, at one time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from tokenworks.observe.cell import Cell
from tokenworks.observe.diagnose.sides import Sides, Subject

MIN_REQUESTS: Final = 5
MIX_SIGNALS: Final = {
    "usual_hit_share": ("share", "part of prompt tokens that would be found if each tenant's were found as before"),
    "dearest_cost_ratio": (
        "times",
        "what a computed token costs on the worker whose hour costs most, over the one whose hour costs least",
    ),
    "baseline_lead_s": ("s", "from the middle of what is compared with to the window's; below 0: that came later"),
}


def mix_figure(name: str, sides: Sides, subject: Subject) -> float:
    """One of `MIX_SIGNALS`. The parts cost some questions to the ledger: rules ask what is cheaper first."""
    return _OF[name](sides, subject)


def usual_hit_share(parts: Iterable[tuple[Cell, Cell]]) -> float:
    """Of parts, each now and before; unknown where there are no prompts."""
    hits = prompts = 0.0
    for now, before in parts:
        is_known = before.requests >= MIN_REQUESTS and before.prompt_tokens > 0
        hits += now.prompt_tokens * _hit_share(before if is_known else now)
        prompts += now.prompt_tokens
    return hits / prompts if prompts else math.nan


def dearest_cost_ratio(workers: Iterable[Cell]) -> float:
    """Of the cells of workers that had `MIN_REQUESTS`; unknown where fewer than two of them have a price."""
    known = [cell for cell in workers if cell.requests >= MIN_REQUESTS and _token_cost(cell) > 0]
    if len(known) < 2:
        return math.nan
    by_price = sorted(known, key=lambda cell: sum(cell.cost_device.values()) / sum(cell.device_ns.values()))
    return _token_cost(by_price[-1]) / _token_cost(by_price[0])


def _token_cost(cell: Cell) -> float:
    """Of a token that was computed; 0 where none was, or it cost nothing."""
    computed = max(0, cell.prompt_tokens - sum(cell.cached_tokens.values())) + cell.output_tokens
    has_cost = computed > 0 and sum(cell.device_ns.values()) > 0
    return sum(cell.cost_device.values()) / computed if has_cost else 0.0


def _hit_share(cell: Cell) -> float:
    return sum(cell.cached_tokens.values()) / cell.prompt_tokens if cell.prompt_tokens else 0.0


_OF: Final[dict[str, Callable[[Sides, Subject], float]]] = {
    "usual_hit_share": lambda sides, subject: usual_hit_share(sides.parts_of(subject)),
    "dearest_cost_ratio": lambda sides, subject: dearest_cost_ratio(each.now.cell for each in sides.subjects("worker")),
    "baseline_lead_s": lambda sides, subject: sides.lead_s,
}
