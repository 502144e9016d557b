"""What came of the latest change in the number of workers: whether twice the workers did twice the work.

The latest moment at which a worker came is looked for, in the window or in the baseline before it, and the time after
that moment is compared with as long a time right before it: traffic of long ago, or none, says little. Where too little
happened in that, with more of the time before. Workers that come within `SAME_START_S` of each other came together.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from tokenworks.observe.cell import merged
from tokenworks.observe.ledger import Ledger, Window, WorkerStretch

SAME_START_S: Final = 5.0
MIN_REQUESTS: Final = 10

SCALE_SIGNALS: Final = {
    "scale_workers_before": ("count", "workers before the latest came"),
    "scale_workers_after": ("count", "workers since the latest came"),
    "scale_growth": ("share", "growth of tokens per second over growth of workers, since the latest came"),
    "scale_pace_before": ("per_s", "tokens per second of a worker with work to do, before the latest came"),
    "scale_pace_after": ("per_s", "tokens per second of a worker with work to do, since the latest came"),
    "scale_efficiency": ("share", "what a worker with work to do computes since the latest came, over before"),
    "scale_delay": ("share", "time of a request per token computed for it since the latest came, over before"),
    "scale_busy_before": ("share", "part of the workers' time with work to do before the latest came"),
    "scale_busy_after": ("share", "part of the workers' time with work to do since the latest came"),
}


class _Part(NamedTuple):
    """One side of the change; tokens are those that were computed."""

    workers: int
    tokens_per_s: float
    pace: float  # tokens per second with work to do
    busy_share: float
    delay_ns: float  # of a request, per token
    requests: int


def scale_figures(ledger: Ledger, window: Window) -> dict[str, float]:
    """Values of `SCALE_SIGNALS`; all NaN where no worker came, or too little ran on either side."""
    unknown = dict.fromkeys(SCALE_SIGNALS, math.nan)
    change_ns = _latest_coming(ledger.workers(window), window)
    if change_ns is None:
        return unknown
    before = _before(ledger, window, change_ns)
    after = _part(ledger, Window(change_ns, window.end_ns))
    if min(before.requests, after.requests) < MIN_REQUESTS or not 0 < before.workers < after.workers:
        return unknown  # where there was none before, because it had died, nothing grew
    return {
        "scale_workers_before": before.workers,
        "scale_workers_after": after.workers,
        "scale_growth": after.tokens_per_s / before.tokens_per_s / (after.workers / before.workers),
        "scale_pace_before": before.pace,
        "scale_pace_after": after.pace,
        "scale_efficiency": after.pace / before.pace,
        "scale_delay": after.delay_ns / before.delay_ns,
        "scale_busy_before": before.busy_share,
        "scale_busy_after": after.busy_share,
    }


def _latest_coming(stretches: list[WorkerStretch], window: Window) -> int | None:
    """When the last group of workers began to come; None where all were there from the start."""
    comings = sorted(stretch.from_ns for stretch in stretches if stretch.from_ns > window.start_ns)
    if not comings or all(stretch.from_ns > comings[-1] - SAME_START_S * 1e9 for stretch in stretches):
        return None
    return next(at_ns for at_ns in comings if at_ns > comings[-1] - SAME_START_S * 1e9)


def _before(ledger: Ledger, window: Window, change_ns: int) -> _Part:
    span_ns = window.end_ns - change_ns
    while True:
        start_ns = max(window.start_ns, change_ns - span_ns)
        part = _part(ledger, Window(start_ns, change_ns))
        if part.requests >= MIN_REQUESTS or start_ns == window.start_ns:
            return part
        span_ns *= 2


def _part(ledger: Ledger, window: Window) -> _Part:
    cell = merged(ledger.cells(window).values())
    stretches = ledger.workers(window)
    computed = cell.prompt_tokens - sum(cell.cached_tokens.values()) + cell.output_tokens
    wall_ns = sum(stretch.use.wall_ns for stretch in stretches)
    busy_ns = wall_ns - sum(stretch.use.idle_ns for stretch in stretches)
    middle_ns = (window.start_ns + window.end_ns) // 2  # who came by then was there; samples may come late
    return _Part(
        workers=len({stretch.worker for stretch in stretches if stretch.from_ns <= middle_ns}),
        tokens_per_s=computed / max(window.seconds, 1e-9) or math.nan,
        pace=computed / (busy_ns / 1e9) if computed and busy_ns else math.nan,
        busy_share=busy_ns / wall_ns if wall_ns else math.nan,
        delay_ns=cell.e2e_ns / computed if computed > 0 and cell.e2e_ns else math.nan,
        requests=cell.requests,
    )
