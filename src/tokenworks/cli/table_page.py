"""How table, bill and comparison look in a terminal, with what one must know to read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from tokenworks.cli.table_grid import row_name, series_grids, table_grids
from tokenworks.cli.terminal_text import printable
from tokenworks.contract.record import PICO
from tokenworks.observe.tables.bill import Bill, BillLine
from tokenworks.observe.tables.comparison import Compared, Comparison, Side
from tokenworks.observe.tables.over_time import OverTime
from tokenworks.observe.tables.rows import EVERYTHING
from tokenworks.observe.tables.table import Table
from tokenworks.observe.units import NOTHING, amount, duration, figure, moment, money

_FIRST_STEPS: Final = (
    "Start `tokenworks serve`, send it a request, and ask again; `--ledger-path` names another ledger."
)
_LINES: Final = {
    "tenant": "tenant",
    "failed": "requests that did not end well",
    "between": "between steps, with work to do",
    "idle": "idle",
    "kv": "KV kept in tier",
    "unrecorded": "work in no record of this window",
    "energy": "energy in no record of this window",
    "rounding": "rounding",
}
_MAX_NAMES: Final = 8
_NEGLIGIBLE: Final = 10**6  # of the work, one part in so many is rounding
_COLOURS: Final = {"better": "green", "worse": "red", "changed": "yellow", "noise": "dim", "unknown": "dim"}
_VERDICTS: Final = {"noise": "within noise", "unknown": "too few to say"}


def table_page(table: Table, width: int, place: str) -> RenderableType:
    """All of it; `place` is where the ledger is."""
    if table.extent is None and not table.rows:
        return Text(f"No request has been recorded in {place} yet.\n{_FIRST_STEPS}")
    parts: list[RenderableType] = [_title(table)]
    parts += table_grids(table, width) if table.num_requests else [_nothing_here(table)]
    return Group(*parts, "", *_bill_and_notes(table))


def series_page(answer: OverTime, width: int, place: str) -> RenderableType:
    """One subject below the other, each over time; then the bill of all of it."""
    table = answer.table
    if not table.num_requests and not any(step.cell.requests for each in answer.series.values() for step in each.steps):
        return table_page(table, width, place)
    parts: list[RenderableType] = [_title(table, f", every {duration(answer.step_ns / 1e9)}")]
    totals = [table.total] if table.by == EVERYTHING else table.rows
    for (name, series), total in zip(answer.series.items(), totals, strict=True):
        if table.by != EVERYTHING:
            parts.append(Text(f"\n{_heading(table.by, name)}", style="bold"))
        parts += series_grids(series, total, width)
    return Group(*parts, "", *_bill_and_notes(table))


def _heading(by: str, name: str) -> str:
    told = row_name(by, name, 60)
    return told if by == "worker" and not name else f"{printable(by, 60)} {told}"


def bill_page(bill: Bill) -> RenderableType:
    """Its lines, which sum to its last."""
    if not bill.total:
        return Text("Bill: nothing, since nothing in this window has a price.")
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Bill, {printable(bill.currency, 8)}", title_justify="left")
    grid.title_style = "bold"
    grid.add_column("")
    grid.add_column("amount", justify="right")
    grid.add_column("share", justify="right")
    for line in _lines_to_show(bill):
        name = Text(" ".join(filter(None, (_LINES[line.kind], printable(line.name, 40)))))
        grid.add_row(name, _amount(line.pico, bill), figure(line.pico / bill.total, "share"))
    grid.add_section()
    grid.add_row("in all", _amount(bill.total, bill), figure(1.0, "share"), style="bold")
    for work, pico in bill.by_work.items():
        grid.add_row(
            f"of that, requests' device time: {work.value}", _amount(pico, bill), figure(pico / bill.total, "share")
        )
    if bill.per_million_tokens is not None:
        grid.add_row("per million tokens, in and out", money(bill.per_million_tokens))
    if bill.per_million_output_tokens is not None:
        grid.add_row("per million output tokens", money(bill.per_million_output_tokens))
    if bill.saved:
        grid.add_row("what found tokens saved, not in the bill", _amount(bill.saved, bill), style="green")
    return grid


def comparison_page(comparison: Comparison) -> RenderableType:
    """Both sides, and what changed beyond noise."""
    first, second = comparison.first, comparison.second
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for name in ("before", "now", "change", "between"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for row in comparison.rows:
        figures = (figure(value, row.column.unit) for value in (row.first, row.second))
        verdict = _VERDICTS.get(row.verdict, row.verdict) if row.column.can_vary else ""
        grid.add_row(row.column.heading, *figures, *_change(row), verdict, style=_COLOURS[row.verdict])
    share = f"{comparison.confidence:.0%}"
    remark = f"The bounds hold for all columns together with {share} confidence, from how slices of each window differ."
    sides = zip(("before", "now"), comparison.tables, strict=True)
    empty = [Text(f"{name:>7}: ") + _nothing_here(table) for name, table in sides if not table.num_requests]
    return Group(_side("before", first), _side("now", second), *empty, grid, Text(remark, style="dim"))


def table_notes(table: Table) -> Iterator[str]:
    """What one must know to read the figures."""
    for gap in table.gaps:
        frames = f"{gap.frames:,} frames" if gap.frames else "an unknown number"
        why = f": {printable(gap.reason, 60)}" if gap.reason else ""
        yield f"records are missing between {moment(gap.from_ns)} and {moment(gap.until_ns)} ({frames}){why}"
    if table.low_peaks and {"mfu", "mbu"} & {column.key for column in table.columns}:
        names = ", ".join(printable(name, 20) for name in table.low_peaks)
        yield f"{names} did more than the peak that was measured on a busy machine: MFU and MBU are upper bounds there"
    if table.shared_names:
        names = ", ".join(printable(name, 20) for name in table.shared_names)
        yield (
            f"{names}: several workers had this name at a time, since several systems keep this ledger; by worker they "
            "are one row. Give each `tokenworks serve` a ledger of its own (--ledger-path)"
        )
    if table.num_hidden:
        yield f"{table.num_hidden:,} more groups with fewer requests are not shown; --rows 0 shows all"
    if table.observed.seconds < 0.9 * table.window.seconds:
        asked, seen = duration(table.window.seconds), duration(table.observed.seconds)
        yield f"of the {asked} asked for, there was a system for {seen}; figures per second are over that"


def bill_notes(bill: Bill) -> Iterator[str]:
    """What the amounts leave out."""
    if bill.unpriced_workers:
        names = ", ".join(printable(name, 20) for name in bill.unpriced_workers[:5])
        more = f" and {len(bill.unpriced_workers) - 5} more" if len(bill.unpriced_workers) > 5 else ""
        yield (
            f"no price is stated for {names}{more}; give `tokenworks serve --price-per-hour X`, or `price_per_hour` in "
            "[engine] or [[workers]] of tokenworks.toml"
        )
    if not bill.overhead.is_known:
        yield "no worker told what its time went to in this window: what idle time cost is not known, nor any full cost"
    elif bill.overhead.excess * _NEGLIGIBLE > bill.overhead.worked:
        yield (
            f"records tell of {money(bill.overhead.excess / PICO)} {printable(bill.currency, 8)} more work than "
            "workers told of in this window (done before it, or their samples are missing): full cost is own cost"
        )
    if bill.is_energy_modelled:
        yield "energy is modelled from the stated watts, where nothing measures it"


def _bill_and_notes(table: Table) -> Iterator[RenderableType]:
    yield bill_page(table.bill)
    yield from (Text(f"· {note}", style="dim") for note in (*table_notes(table), *bill_notes(table.bill)))


def _title(table: Table, more: str = "") -> Text:
    start_ns, end_ns = table.observed
    rows = "all requests" if table.by == EVERYTHING else f"by {printable(table.by, 60)}"
    only = "".join(f", {printable(name, 60)} {printable(value, 60)}" for name, value in table.where.items())
    span = f"{moment(start_ns)} to {moment(end_ns)} ({duration(table.observed.seconds)})"
    return Text(f"{span}, {rows}{only}{more}", style="bold")


def _nothing_here(table: Table) -> Text:
    there = [f"{printable(name, 60)} {_some(values)}" for name, values in table.instead.items() if values]
    if there:
        wanted = " and ".join(f"{printable(name, 60)} {_named(value)}" for name, value in table.where.items())
        return Text(f"No request of {wanted} ended in this window. There were requests of {'; of '.join(there)}.")
    text = "No request ended in this window."
    if table.extent is not None:
        begin, end = map(moment, table.extent)
        text += f" There are records from {begin} to {end}: give --since and --until."
    return Text(text)


def _some(values: list[str]) -> str:
    """The first ones, and how many more there are."""
    more = f" and {len(values) - _MAX_NAMES:,} more" if len(values) > _MAX_NAMES else ""
    return ", ".join(map(_named, values[:_MAX_NAMES])) + more


def _named(value: str) -> str:
    return printable(value, 40) or "(none)"


def _change(row: Compared) -> tuple[str, str]:
    if row.change is None:
        return NOTHING, ""
    value, low, high = row.change
    if row.column.is_proportion:
        return f"{100 * value:+.1f} pp", f"{100 * low:+.1f} .. {100 * high:+.1f}"
    return f"x {value:.2f}", f"{low:.2f} .. {high:.2f}"


def _side(name: str, side: Side) -> Text:
    where = "".join(f", {printable(key, 60)} {printable(value, 60)}" for key, value in side.where.items())
    return Text(f"{name:>7}: {moment(side.window.start_ns)} to {moment(side.window.end_ns)}{where}", style="bold")


def _lines_to_show(bill: Bill) -> Iterator[BillLine]:
    """Fractions of pico are of interest to those who add up, and they read JSON."""
    yield from (line for line in bill.lines if line.kind != "rounding")


def _amount(pico: int, bill: Bill) -> str:
    return amount(pico / PICO, bill.total / PICO)
