"""What a run is compared with that has nothing before it: the stretch of itself in which its requests did best.

The run is cut into equal steps. Of all stretches a quarter of it long, that is taken in which the fewest requests went
without an answer, and of those the one in which first tokens and further tokens came soonest, by P95: what is wrong
with one request in twenty makes a stretch worse. Then it grows on both sides as long as the next step is as good as it
is. So a run in which nothing is wrong is compared with (nearly) all of itself, and finding something by looking for its
best moment alone is as unlikely as it can be; a run that was good for less than a quarter of its time is compared with
the best there was, which may hide what was wrong throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.ledger import Ledger, Window

MIN_REQUESTS: Final = 20
"""Of a baseline: with fewer, hardly anything can be told from chance."""
_STEPS: Final = 24
_LEAST_PART: Final = 4  # a stretch has this part of the steps at least
_MAX_SINGLES: Final = 20_000  # requests that are read one by one: below a minute a ledger has no sums
_MINUTE_NS: Final = 60 * 10**9
_AS_GOOD: Final = 1.25  # a step is as good as a stretch where its P95 is no more than this times the stretch's
_AS_SURE: Final = 0.05  # and where of its requests no greater part than this more went unanswered
_P95: Final = 0.95
_MEASURES: Final = ("ttft", "tpot")


def best_stretch(ledger: Ledger, window: Window) -> Window | None:
    """The stretch; None where too little happened in the window to have one and to compare something with it."""
    run = _run(ledger, window)
    num_requests = ledger.cells(run).get("", Cell()).requests if run.seconds > 0 else 0
    if num_requests < 2 * MIN_REQUESTS:
        return None
    found = ledger.series(run, step_ns(run, num_requests, _STEPS))
    cells = [cell for _, cell in found]
    best = _best(cells, _whole(cells))
    if best is None:
        return None
    first, last = _grown(cells, *best)
    starts_ns = [max(start_ns, run.start_ns) for start_ns, _ in found] + [run.end_ns]
    return Window(starts_ns[first], starts_ns[last])


def _run(ledger: Ledger, window: Window) -> Window:
    """The window without the time before the first request of all, and after the last."""
    extent = ledger.extent()
    if extent is None:
        return Window(window.start_ns, window.start_ns)
    return Window(max(window.start_ns, extent.start_ns), min(window.end_ns, extent.end_ns))


def step_ns(window: Window, num_requests: int, num_steps: int) -> int:
    """The length of steps that a window is cut into: so many, but of very many requests none below a minute."""
    length_ns = math.ceil((window.end_ns - window.start_ns) / num_steps)
    return max(length_ns, _MINUTE_NS) if num_requests > _MAX_SINGLES else length_ns


def _best(cells: Sequence[Cell], whole: dict[str, float]) -> tuple[int, int] | None:
    """The best of the shortest stretches that have enough requests, as a range of steps."""
    least = max(1, len(cells) // _LEAST_PART)
    ranked = []
    for first in range(len(cells) - least + 1):
        part = merged(cells[first : first + least])
        if part.requests >= MIN_REQUESTS:
            ranked.append((_unserved(part), sum(_times(part, whole)), first))
    if not ranked:
        return None
    *_, first = min(ranked)
    return first, first + least


def _grown(cells: Sequence[Cell], first: int, last: int) -> tuple[int, int]:
    """The range with its neighbours, as long as they are as good; the better one first."""
    while options := list(_neighbours(cells, first, last)):
        stretch = _whole(cells[first:last])
        most = _unserved(merged(cells[first:last])) + _AS_SURE
        served = [step for step in options if _unserved(cells[step]) <= most]
        times, step = min(
            ((max(_times(cells[step], stretch), default=0.0), step) for step in served), default=(math.inf, 0)
        )
        if times > _AS_GOOD:
            break
        first, last = min(first, step), max(last, step + 1)
    return first, last


def _neighbours(cells: Sequence[Cell], first: int, last: int) -> Iterator[int]:
    if first > 0:
        yield first - 1
    if last < len(cells):
        yield last


def _whole(cells: Sequence[Cell]) -> dict[str, float]:
    cell = merged(cells)
    return {name: _p95(cell, name) for name in _MEASURES}


def _unserved(cell: Cell) -> float:
    """The part of its requests that the system gave no answer, in twentieths: one in a hundred is no difference."""
    unserved = cell.rejected + cell.failed + cell.timeouts
    return round(20 * unserved / cell.requests) / 20 if cell.requests else 0.0


def _times(cell: Cell, usual: dict[str, float]) -> list[float]:
    """How many times as long as usual things take, by each measure; empty where nothing happened."""
    times = [_p95(cell, name) / usual[name] for name in _MEASURES if usual[name] > 0]
    return [each for each in times if math.isfinite(each)]


def _p95(cell: Cell, name: str) -> float:
    sketch = cell.sketch(name)
    return sketch.quantile(_P95) if len(sketch) else math.nan
