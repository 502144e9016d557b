"""What a window is compared with that has nothing before it: its later half with its first.

It is cut between two steps of the ledger where about as many requests had ended as were still to come, so that both
sides say equally much; time without a system before or after them belongs to neither.
"""

from __future__ import annotations

from itertools import accumulate

from tokenworks.observe.drift.drift import MIN_VALUES, sizes
from tokenworks.observe.drift.traffic_sample import step_ns
from tokenworks.observe.ledger import Ledger, Window


def halves_where_needed(ledger: Ledger, window: Window, reference: Window) -> tuple[Window, Window] | None:
    """The halves of a window that has enough requests while its reference has too few; None where not."""
    told = sizes(ledger, window, reference)
    return halves(ledger, window) if told.reference_requests < MIN_VALUES <= told.requests else None


def halves(ledger: Ledger, window: Window) -> tuple[Window, Window] | None:
    """The first and the later one; None where one of them would hold too little. Raises LedgerError."""
    extent = ledger.extent()
    if extent is None:
        return None
    run = Window(max(window.start_ns, extent.start_ns), min(window.end_ns, extent.end_ns))
    if run.start_ns >= run.end_ns:
        return None
    steps = ledger.series(run, step_ns(run))
    ended = list(accumulate(cell.requests for _, cell in steps))
    starts_ns = [start_ns for start_ns, _ in steps[1:]]
    splits = [(min(num, ended[-1] - num), at_ns) for num, at_ns in zip(ended, starts_ns, strict=False)]
    fewest, cut_ns = max(splits, default=(0, 0), key=lambda split: split[0])
    return (Window(run.start_ns, cut_ns), Window(cut_ns, run.end_ns)) if fewest >= MIN_VALUES else None
