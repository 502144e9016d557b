"""Two windows, or two versions (tenants, models, ...) side by side, and whether what differs is more than noise.

Each side is cut into slices; `intervals` says how sure each figure is, from how much it varies among them. The
confidence holds for all columns together (Bonferroni): of many figures some would otherwise differ by chance alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import InvalidRequest
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Ledger, Window
from tokenworks.observe.tables.columns import Column
from tokenworks.observe.tables.facts import Facts
from tokenworks.observe.tables.intervals import Estimate, difference, percentile, proportion, quotient, ratio
from tokenworks.observe.tables.quantities import quantity
from tokenworks.observe.tables.rows import EVERYTHING
from tokenworks.observe.tables.table import Table, build_table, check_where
from tokenworks.observe.when import parse_moment, parse_window

CONFIDENCE: Final = 0.95
FEWEST: Final = 12
MOST: Final = 60
_UNITS_NS: Final = tuple(seconds * 10**9 for seconds in (86_400, 3600, 60, 1))
"""What the ledger has cells of: so a long window is compared from a few of them."""
Verdict = Literal["better", "worse", "changed", "noise", "unknown"]


class Side(NamedTuple):
    """What is compared: the requests of a window with certain values of dimensions."""

    window: Window
    where: dict[str, str]
    label: str


class Compared(msgspec.Struct, frozen=True):
    """One column on both sides."""

    column: Column
    first: float | None
    second: float | None
    change: Estimate | None  # second over first, of a proportion second less first; None: too little to say
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """For printing."""
        return {
            "column": self.column.key,
            "first": self.first,
            "second": self.second,
            "change": "difference" if self.column.is_proportion else "ratio",
            "value": self.change and self.change.value,
            "low": self.change and self.change.low,
            "high": self.change and self.change.high,
            "verdict": self.verdict,
        }


class Comparison(msgspec.Struct, frozen=True):
    """All columns on both sides."""

    first: Side
    second: Side
    tables: tuple[Table, Table]
    confidence: float  # of all intervals together
    rows: list[Compared]

    def as_json(self) -> dict[str, Any]:
        """For printing."""
        return {
            "rows": [row.as_json() for row in self.rows],
            "bill": self.tables[1].bill.as_json(),
            "first": {"label": self.first.label, "bill": self.tables[0].bill.as_json()},
            "second": {"label": self.second.label},
            "confidence": self.confidence,
        }


def compare(
    ledger: Ledger, settings: Settings, first: Side, second: Side, *, preset: str = "", columns: Sequence[str] = ()
) -> Comparison:
    """`second` against `first`; raises InvalidRequest, LedgerError."""

    def table_of(side: Side) -> Table:
        return build_table(
            ledger, side.window, settings, by=EVERYTHING, where=side.where, preset=preset, columns=columns
        )

    tables = table_of(first), table_of(second)
    slices = _slices(ledger, tables[0]), _slices(ledger, tables[1])
    wanted = tables[0].columns
    confidence = 1 - (1 - CONFIDENCE) / max(sum(column.can_vary for column in wanted), 1)
    rows = [
        _compared(column, tables[0].total[column.key], tables[1].total[column.key], *slices, confidence)
        for column in wanted
    ]
    return Comparison(first, second, tables, CONFIDENCE, rows)


def parse_against(text: str, window: Window, where: dict[str, str], now_ns: int) -> Side:
    """The other side of a comparison, as people write it; raises InvalidRequest.

    "before": as long, just before; "1d": the same window a day earlier; "2h..1h": from 2 hours to 1 hour ago;
    "version=3fe1": the same window with this value instead.
    """
    if "=" in text:
        name, _, value = text.partition("=")
        return Side(window, {**where, **check_where({name.strip(): value})}, text)
    if ".." in text:
        since, _, until = text.partition("..")
        return Side(parse_window(since, until, now_ns), where, text)
    length_ns = window.end_ns - window.start_ns
    shift_ns = length_ns if text == "before" else now_ns - parse_moment(text, now_ns, "against")
    if shift_ns <= 0:
        raise InvalidRequest(f"{text!r} is no earlier window; give such as before, 1d or 2h..1h", param="against")
    return Side(Window(window.start_ns - shift_ns, window.end_ns - shift_ns), where, text)


def _slices(ledger: Ledger, table: Table) -> list[Facts]:
    """Those in which nothing ended are slices too; the first and the last may be cut short by the window."""
    start_ns, end_ns = table.observed
    step_ns = slice_ns(end_ns - start_ns)
    cells = dict(ledger.series(table.observed, step_ns, table.where))
    starts = range(start_ns - start_ns % step_ns, end_ns, step_ns)
    return [
        Facts(cells.get(start, Cell()), (min(start + step_ns, end_ns) - max(start, start_ns)) / 1e9) for start in starts
    ]


def slice_ns(length_ns: int) -> int:
    """How long a slice of a window is: whole seconds, minutes, hours or days, of which it has 12 to 61 from 12 s on."""
    unit_ns = next((unit_ns for unit_ns in _UNITS_NS if length_ns >= FEWEST * unit_ns), _UNITS_NS[-1])
    return max(1, -(-length_ns // (MOST * unit_ns))) * unit_ns


def _compared(
    column: Column, first: float | None, second: float | None, before: list[Facts], now: list[Facts], confidence: float
) -> Compared:
    change = _change(column, before, now, confidence)
    verdict = "noise" if first == second == 0 else _verdict(column, change)
    return Compared(column, first, second, change, verdict)


def _change(column: Column, first: list[Facts], second: list[Facts], confidence: float) -> Estimate | None:
    estimate = _estimator(column, confidence)
    if estimate is None:
        return None
    one, other = estimate(first), estimate(second)
    if one is None or other is None:
        return None
    return difference(one, other) if column.is_proportion else ratio(one, other)


def _estimator(column: Column, confidence: float) -> Callable[[list[Facts]], Estimate | None] | None:
    if not column.can_vary:
        return None
    if column.quantile is not None:
        name, share = column.quantile
        return lambda slices: percentile([facts.sketch(name) for facts in slices], share, confidence)
    estimate = proportion if column.is_proportion else quotient

    def sums(slices: list[Facts], word: str) -> list[float]:
        return [quantity(word)(facts) or 0.0 for facts in slices]

    above, below = column.words
    return lambda slices: estimate(sums(slices, above), sums(slices, below), confidence)


def _verdict(column: Column, change: Estimate | None) -> Verdict:
    if change is None:
        return "unknown"
    same = 0.0 if column.is_proportion else 1.0
    if change.low <= same <= change.high:
        return "noise"
    if not column.better:
        return "changed"
    return "better" if (change.value > same) == (column.better == "higher") else "worse"
