"""How a trace, and the dependencies of many, look in a terminal."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from tokenworks.cli.terminal_text import printable
from tokenworks.observe.chains.breakdown import Breakdown, Dependency
from tokenworks.observe.chains.chain import Chain, Link
from tokenworks.observe.units import NOTHING, duration, figure

_DEEPEST: Final = 12  # beyond that the indent says no more
_NO_SPANS: Final = (
    "No application has sent spans for its requests yet: point its OTLP exporter at POST /v1/traces of the gateway, "
    "and pass `traceparent` on with the model call. docs/guides/chains.md shows how."
)


def breakdown_page(found: Breakdown) -> RenderableType:
    """A row for each dependency, and what one must know to read them."""
    if not found.traces:
        return Text(f"{found.requests} requests in this window. {_NO_SPANS}")
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("dependency")
    for heading in (
        "spans",
        "P50",
        "P99",
        "errors",
        "hits",
        "origin P50",
        "P99",
        "cross-zone",
        "of all",
        "of tail",
        "",
    ):
        grid.add_column(heading, justify="right")
    for row in found.rows:
        grid.add_row(*_cells(row))
    return Group(_title(found), grid, *(Text(f"· {note}", style="dim") for note in _notes(found)))


def chain_page(chain: Chain) -> RenderableType:
    """One line for each span."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("at", "took", "held up", "of all"):
        grid.add_column(heading, justify="right")
    grid.add_column("span")
    grid.add_column("service")
    for link in chain.links:
        grid.add_row(*_line(link, chain))
    title = f"trace {printable(chain.trace_id, 32)}: {duration(chain.duration_ns / 1e9)}, {len(chain.links)} spans"
    requests = f"requests: {', '.join(printable(each, 40) for each in chain.request_ids) or 'none of ours'}"
    parts: list[RenderableType] = [Text(title, style="bold"), Text(requests), grid]
    if chain.num_orphans:
        parts.append(Text(f"· of {chain.num_orphans} spans the parent is missing: they stand below the root", "dim"))
    return Group(*parts)


def _line(link: Link, chain: Chain) -> tuple[RenderableType, ...]:
    span = link.span
    share = link.critical_ns / (chain.duration_ns or 1)
    style = "bold" if share >= 0.1 else "" if link.critical_ns else "dim"
    name = f"{'  ' * min(link.depth, _DEEPEST)}{printable(span.name, 60)}{' (error)' if span.is_error else ''}"
    times = (span.started_ns - chain.links[0].span.started_ns, span.duration_ns, link.critical_ns)
    cells = [*(duration(time_ns / 1e9) for time_ns in times), figure(share, "share"), name, printable(span.service, 30)]
    return tuple(Text(cell, style=style) for cell in cells)


def _cells(row: Dependency) -> tuple[RenderableType, ...]:
    cells = [
        f"{printable(row.service, 24)} / {printable(row.name, 40)}",
        str(row.count),
        _seconds(row.p50_s),
        _seconds(row.p99_s),
        _share(row.error_rate or None),
        _share(row.hit_rate),
        _seconds(row.origin_p50_s),
        _seconds(row.origin_p99_s),
        _share(row.cross_zone_share),
        _share(row.critical_share),
        _share(row.tail_share),
        _seconds(row.tail_s),
    ]
    return tuple(Text(cell) for cell in cells)


def _title(found: Breakdown) -> Text:
    times = f"P50 {_seconds(found.p50_s)}, P99 {_seconds(found.p99_s)}"
    return Text(f"{found.traces} traces with a model call, of {found.requests} requests: {times}", style="bold")


def _notes(found: Breakdown) -> list[str]:
    notes = [
        f"of all: its share of the critical paths of all traces; of tail: of the {found.tail_traces} slowest, with the "
        "mean time in one of them"
    ]
    if any(row.origin_p50_s is not None for row in found.rows):
        notes.append("origin: what a miss of the cache took to fetch")
    if found.incomplete:
        notes.append(f"in {found.incomplete} traces the parent of a span is missing")
    return notes


def _seconds(value_s: float | None) -> str:
    return NOTHING if value_s is None else duration(value_s)


def _share(value: float | None) -> str:
    return NOTHING if value is None else figure(value, "share")
