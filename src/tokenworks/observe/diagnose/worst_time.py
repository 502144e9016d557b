"""When a finding was at its worst: from the first to the last step of the window in which its figure stood out.

A rule names the figure (`Rule.peak`, the higher the worse). The window is cut into steps as for `best_stretch`; a step
stands out where the figure lies nearer to what it is in the whole window than to what is usual. Nothing is told where
that is most of the window, for then the window says it already, and where the figure is unknown in every step.
"""

from __future__ import annotations

import math
from typing import Final

from tokenworks.observe.diagnose.best_stretch import step_ns
from tokenworks.observe.diagnose.sides import WHOLE, Side, Subject
from tokenworks.observe.diagnose.signals import SIGNALS
from tokenworks.observe.ledger import Ledger, Window

_STEPS: Final = 60
_MOST: Final = 0.7  # of the window
_SECOND_NS: Final = 10**9


def worst_time(ledger: Ledger, subject: Subject, name: str) -> Window | None:
    """The stretch, of one subject; None: there is none to tell."""
    window, of = subject.now.window, SIGNALS[name].of
    whole, usual = of(subject.now), of(subject.before) if subject.before.cell.requests else 0.0
    if not math.isfinite(whole):
        return None
    least = (whole + (usual if math.isfinite(usual) else 0.0)) / 2
    where = {} if subject.kind == WHOLE else {subject.kind: subject.name}
    length_ns = max(_SECOND_NS, step_ns(window, subject.now.cell.requests, _STEPS))
    steps = [
        Window(max(start_ns, window.start_ns), min(start_ns + length_ns, window.end_ns))
        for start_ns, cell in ledger.series(window, length_ns, where)
        if cell.requests and of(Side(Window(start_ns, start_ns + length_ns), cell)) > least
    ]
    if not steps:
        return None
    found = Window(steps[0].start_ns, steps[-1].end_ns)
    return found if found.seconds <= _MOST * window.seconds else None
