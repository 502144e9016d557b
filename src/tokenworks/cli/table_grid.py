"""How the table's figures lie in a terminal: groups as rows where the width allows it, as columns where that fits, and
else as rows in several parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from tokenworks.cli.terminal_text import printable
from tokenworks.observe.ledger import Window
from tokenworks.observe.tables.columns import Column
from tokenworks.observe.tables.rows import EVERYTHING
from tokenworks.observe.tables.series import Series, Step
from tokenworks.observe.tables.table import Table
from tokenworks.observe.units import duration, figure, moment

_GUTTER = 3
_DAY = len("2026-03-01")


class _Sheet(NamedTuple):
    groups: list[str]
    columns: list[Column]
    figures: list[list[str]]  # by column, then by group
    has_total: bool  # as the last group


def table_grids(table: Table, width: int) -> list[Grid]:
    """One grid, or several below each other, none wider than `width` where that can be."""
    sheet = _sheet(table)
    if len(sheet.groups) > 1 and _width_as_rows(sheet) <= width:
        return [_as_rows(sheet)]
    if len(sheet.groups) == 1 or _width_as_columns(sheet) <= width:
        return [_as_columns(sheet)]
    return [_as_rows(part) for part in _parts(sheet, width)]


def series_grids(series: Series, total: dict[str, Any], width: int) -> list[Grid]:
    """A line for each step; steps without a request that follow each other are one stretch, and one line."""
    stretches = [list(steps) for _, steps in groupby(series.steps, key=_Stretch())]
    start = _moments(series.window)
    names = [start(steps[0].window.start_ns) + _note(steps) for steps in stretches]
    figures = [
        [_step_figure(steps, column) for steps in stretches] + [figure(total[column.key], column.unit)]
        for column in series.columns
    ]
    sheet = _Sheet([*names, EVERYTHING], series.columns, figures, has_total=True)
    return [_as_rows(part) for part in _parts(sheet, width)]


class _Stretch:
    """What groups steps: the same for those without a request in a row, another one for each that has some."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, step: Step) -> int:
        self._number += bool(step.cell.requests)
        return self._number if step.cell.requests else -1


def _moments(window: Window) -> Callable[[int], str]:
    """How moments of a window are written: the day only where there are several."""
    days = {moment(at_ns)[:_DAY] for at_ns in window}
    return (lambda at_ns: moment(at_ns)[_DAY + 1 :]) if len(days) == 1 else moment


def _note(steps: Sequence[Step]) -> str:
    if not steps[0].note:
        return ""
    return f" {steps[0].note} for {duration((steps[-1].window.end_ns - steps[0].window.start_ns) / 1e9)}"


def _step_figure(steps: Sequence[Step], column: Column) -> str:
    return "" if steps[0].note else figure(steps[0].figures[column.key], column.unit)


def _sheet(table: Table) -> _Sheet:
    names = [row_name(table.by, str(row.get(table.by, EVERYTHING)), 24) for row in table.rows]
    rows = list(table.rows)
    has_total = len(rows) + table.num_hidden > 1
    if has_total:
        names, rows = [*names, EVERYTHING], [*rows, table.total]
    figures = [[figure(row[column.key], column.unit) for row in rows] for column in table.columns]
    return _Sheet(names, table.columns, figures, has_total)


def row_name(by: str, name: str, most: int) -> str:
    """What a group is called, in so many characters; some requests have nothing there, and no worker ever had them."""
    return printable(name, most) or ("no worker" if by == "worker" else "(none)")


def _parts(sheet: _Sheet, width: int) -> Iterator[_Sheet]:
    """Columns in turn, as many at a time as fit."""
    part = sheet._replace(columns=[], figures=[])
    for column, figures in zip(sheet.columns, sheet.figures, strict=True):
        wider = part._replace(columns=[*part.columns, column], figures=[*part.figures, figures])
        if part.columns and _width_as_rows(wider) > width:
            yield part
            wider = sheet._replace(columns=[column], figures=[figures])
        part = wider
    yield part


def _width_as_rows(sheet: _Sheet) -> int:
    columns = [[column.heading, *figures] for column, figures in zip(sheet.columns, sheet.figures, strict=True)]
    return _width([sheet.groups, *columns])


def _width_as_columns(sheet: _Sheet) -> int:
    groups = [[name, *(figures[index] for figures in sheet.figures)] for index, name in enumerate(sheet.groups)]
    return _width([[column.heading for column in sheet.columns], *groups])


def _width(columns: list[list[str]]) -> int:
    return sum(max(map(len, column)) + _GUTTER for column in columns)


def _as_rows(sheet: _Sheet) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for column in sheet.columns:
        grid.add_column(column.heading, justify="right", no_wrap=True)
    for index, name in enumerate(sheet.groups):
        is_total = sheet.has_total and index == len(sheet.groups) - 1
        if is_total:
            grid.add_section()
        grid.add_row(Text(name), *(figures[index] for figures in sheet.figures), style="bold" if is_total else "")
    return grid


def _as_columns(sheet: _Sheet) -> Grid:
    """A line a figure; with what it says where there is one group only."""
    has_help = len(sheet.groups) == 1
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for name in sheet.groups:
        grid.add_column(Text(name), justify="right", no_wrap=True)
    if has_help:
        grid.add_column("", style="dim")
    for column, figures in zip(sheet.columns, sheet.figures, strict=True):
        grid.add_row(column.heading, *figures, *([column.help] if has_help else []))
    return grid
