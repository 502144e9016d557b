"""How a trace, and the dependencies of many, look in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from tokenworks.cli.terminal_text import counted, printable
from tokenworks.observe.chains.breakdown import Breakdown, Dependency
from tokenworks.observe.chains.chain import Chain, Link
from tokenworks.observe.units import NOTHING, duration, figure

_LEAST_NAME: Final = 24  # characters of a dependency's name, where there is little room
_GAP: Final = 3  # between two columns
_EDGES: Final = 2
_DEEPEST: Final = 12  # beyond that the indent says no more
_NO_SPANS: Final = (
    "No application has sent spans for its requests yet: point its OTLP exporter at POST /v1/traces of the gateway, "
    "and pass `traceparent` on with the model call. docs/guides/chains.md shows how."
)


def breakdown_page(found: Breakdown) -> RenderableType:
    """A row for each dependency, and what one must know to read them."""
    if not found.traces:
        return Text(f"{counted(found.requests, 'request')} in this window. {_NO_SPANS}")
    notes = (Text(f"· {note}", style="dim") for note in _notes(found))
    return Group(_title(found), _Dependencies(found.rows), *notes)


def chain_page(chain: Chain) -> RenderableType:
    """One line for each span."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("at", "took", "held up", "of all"):
        grid.add_column(heading, justify="right")
    grid.add_column("span")
    grid.add_column("service")
    for link in chain.links:
        grid.add_row(*_line(link, chain))
    took = duration(chain.duration_ns / 1e9)
    title = f"trace {printable(chain.trace_id, 32)}: {took}, {counted(len(chain.links), 'span')}"
    requests = f"requests: {', '.join(printable(each, 40) for each in chain.request_ids) or 'none of ours'}"
    parts: list[RenderableType] = [Text(title, style="bold"), Text(requests), grid]
    if chain.num_orphans:
        orphans = counted(chain.num_orphans, "span")
        parts.append(Text(f"· the parent of {orphans} is missing: shown below the root", "dim"))
    return Group(*parts)


def _line(link: Link, chain: Chain) -> tuple[RenderableType, ...]:
    span = link.span
    share = link.critical_ns / (chain.duration_ns or 1)
    style = "bold" if share >= 0.1 else "" if link.critical_ns else "dim"
    name = f"{'  ' * min(link.depth, _DEEPEST)}{printable(span.name, 60)}{' (error)' if span.is_error else ''}"
    times = (span.started_ns - chain.links[0].span.started_ns, span.duration_ns, link.critical_ns)
    cells = [*(duration(time_ns / 1e9) for time_ns in times), figure(share, "share"), name, printable(span.service, 30)]
    return tuple(Text(cell, style=style) for cell in cells)


class _Column(NamedTuple):
    heading: str
    text: Callable[[Dependency], str]
    worth: int  # where there is no room for all, those with the least go


_NAME: Final = _Column("dependency", lambda row: f"{printable(row.service, 24)} / {printable(row.name, 40)}", 9)
_FIGURES: Final = (
    _Column("spans", lambda row: str(row.count), 4),
    _Column("P50", lambda row: _seconds(row.p50_s), 5),
    _Column("P99", lambda row: _seconds(row.p99_s), 7),
    _Column("errors", lambda row: _share(row.error_rate or None), 3),
    _Column("hits", lambda row: _share(row.hit_rate), 6),
    _Column("origin P50", lambda row: _seconds(row.origin_p50_s), 1),
    _Column("P99", lambda row: _seconds(row.origin_p99_s), 1),
    _Column("cross-zone", lambda row: _share(row.cross_zone_share), 2),
    _Column("of all", lambda row: _share(row.critical_share), 8),
    _Column("of tail", lambda row: _share(row.tail_share), 9),
    _Column("", lambda row: _seconds(row.tail_s), 0),
)


class _Dependencies:
    """A row for each, with as many columns as there is room for: a figure that is cut would be another figure."""

    def __init__(self, rows: Sequence[Dependency]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = sorted(_FIGURES, key=lambda column: -column.worth)
        while (room := options.max_width - _EDGES - self._width(shown)) < _LEAST_NAME and len(shown) > 1:
            shown.pop()
        yield self._grid([column for column in _FIGURES if column in shown], max(room, 1))

    def _width(self, columns: Iterable[_Column]) -> int:
        return sum(_GAP + max(map(len, [column.heading, *map(column.text, self._rows)])) for column in columns)

    def _grid(self, figures: Sequence[_Column], name_width: int) -> Grid:
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column(_NAME.heading, max_width=name_width, overflow="ellipsis", no_wrap=True)
        for column in figures:
            grid.add_column(column.heading, justify="right", no_wrap=True)
        for row in self._rows:
            grid.add_row(*(Text(column.text(row)) for column in (_NAME, *figures)))
        return grid


def _title(found: Breakdown) -> Text:
    times = f"P50 {_seconds(found.p50_s)}, P99 {_seconds(found.p99_s)}"
    of = f"{counted(found.traces, 'trace')} with a model call, of {counted(found.requests, 'request')}"
    return Text(f"{of}: {times}", style="bold")


def _notes(found: Breakdown) -> list[str]:
    notes = [
        f"of all: its share of the critical paths of all traces; of tail: of the {found.tail_traces} slowest, with the "
        "mean time in one of them"
    ]
    if any(row.origin_p50_s is not None for row in found.rows):
        notes.append("origin: what a miss of the cache took to fetch")
    if found.incomplete:
        notes.append(f"in {counted(found.incomplete, 'trace')} the parent of a span is missing")
    return notes


def _seconds(value_s: float | None) -> str:
    return NOTHING if value_s is None else duration(value_s)


def _share(value: float | None) -> str:
    return NOTHING if value is None else figure(value, "share")
