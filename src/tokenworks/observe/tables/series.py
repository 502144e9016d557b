"""The table over time: the same figures for one step of a window after the other.

Each step is what the table of that step alone would say, its costs and machines included. Steps begin at multiples of
their length since 1970 (days are UTC's); of the first and the last a part may lie in the window. A step in which
nothing ended has its row: a gap is a finding. What workers did is known to the distance of their samples (5 s; after a
day a minute, later an hour), and spread evenly between two of them: a shorter step has its part, so that bills of steps
add up to the window's. Behind the last sample, some seconds ago, nothing is known of workers yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenworks.contract.config import Settings
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Ledger, Window, observed_window
from tokenworks.observe.tables.bill import overhead_of
from tokenworks.observe.tables.columns import Column, columns_named, preset_columns
from tokenworks.observe.tables.prices import PriceList
from tokenworks.observe.tables.rows import EVERYTHING, Rows
from tokenworks.observe.tables.table import check_where

NO_REQUESTS = "no requests"


class Step(NamedTuple):
    """One step, as far as it lies in the window."""

    start_ns: int  # a multiple of the step's length
    window: Window
    seconds: float  # of it, how long there was a system; of all of it where there was none
    cell: Cell
    figures: dict[str, Any]  # by column

    @property
    def note(self) -> str:
        """What there is to say beside the figures."""
        return "" if self.cell.requests else NO_REQUESTS

    def as_json(self) -> dict[str, Any]:
        """For printing."""
        return {
            "from_ns": self.window.start_ns,
            "until_ns": self.window.end_ns,
            "note": self.note,
            **self.figures,
        }


class Series(NamedTuple):
    """All steps of a window, for the requests that have certain values of dimensions."""

    window: Window
    step_ns: int
    where: dict[str, str]
    columns: list[Column]
    steps: list[Step]


def build_series(
    ledger: Ledger,
    window: Window,
    settings: Settings,
    step_ns: int,
    *,
    where: Mapping[str, str] | None = None,
    preset: str = "",
    columns: Sequence[str] = (),
) -> Series:
    """`step_ns` from `steps`; the rest as `build_table` has it. Raises InvalidRequest, LedgerError."""
    where = check_where(where or {})
    wanted = columns_named(list(columns) or list(preset_columns(preset)))
    cells = ledger.series(window, step_ns, where)
    everybody = dict(ledger.series(window, step_ns) if where else cells)
    workers = dict(ledger.worker_series(window, step_ns))
    observed = observed_window(window, ledger.extent(), [each for told in workers.values() for each in told])
    prices = PriceList(ledger, window, settings.cost)
    steps = []
    for start_ns, cell in cells:
        part = _overlap(Window(start_ns, start_ns + step_ns), window)
        told, seconds = workers.get(start_ns, []), _overlap(part, observed).seconds
        overhead = overhead_of(prices.parts(part, told), everybody[start_ns])
        figures = Rows(wanted, seconds, told, where, overhead).of(EVERYTHING, cell)
        steps.append(Step(start_ns, part, seconds, cell, figures))
    return Series(window, step_ns, where, wanted, steps)


def _overlap(part: Window, whole: Window) -> Window:
    """What of a step lies in a window; all of it where nothing does."""
    start_ns, end_ns = max(part.start_ns, whole.start_ns), min(part.end_ns, whole.end_ns)
    return Window(start_ns, end_ns) if start_ns < end_ns else part
