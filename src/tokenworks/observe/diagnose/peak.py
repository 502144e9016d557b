"""How many workers the busiest part of a window kept busy: whether fewer would have done.

The window is cut into equal parts; in each the workers' shares of time with work to do are added up. A worker is
sampled every few seconds: of a window that is hardly longer than that, a part is what passed between two samples.
"""

from __future__ import annotations

import math
from typing import Final

from tokenworks.observe.ledger import Ledger, Window, WorkerStretch

PEAK_SIGNALS: Final = {"peak_busy_workers": ("count", "workers' worth of work in the busiest twelfth of the window")}
_PARTS: Final = 12


def peak_busy_workers(ledger: Ledger, window: Window) -> float:
    """Unknown where no worker was sampled."""
    edges_ns = [window.start_ns + (window.end_ns - window.start_ns) * part // _PARTS for part in range(_PARTS + 1)]
    parts = [ledger.workers(Window(*edge)) for edge in zip(edges_ns, edges_ns[1:], strict=False)]
    return max((sum(map(_busy_share, stretches)) for stretches in parts if stretches), default=math.nan)


def _busy_share(stretch: WorkerStretch) -> float:
    use = stretch.use
    return 1 - use.idle_ns / use.wall_ns if use.wall_ns else 0.0
