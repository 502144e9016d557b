"""What `tokenworks chains` shows of a made-up ledger, hostile names included."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from tests.observe.made import MINUTE_NS, NOON_NS, record, span
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.cli.chains_page import breakdown_page, chain_page
from tokenworks.observe.chains.breakdown import breakdown
from tokenworks.observe.chains.chain import chain_of
from tokenworks.observe.ledger import Window

WINDOW = Window(NOON_NS - MINUTE_NS, NOON_NS + MINUTE_NS)
LEDGER = MemoryLedger(
    [record(trace_id="t", span_id="own", parent_span_id="root", ended_ns=NOON_NS + 10**9, e2e_ns=9 * 10**8)],
    spans=[
        span("root", 0, 1000, name="answer\x1b[2J", kind="server"),
        span("cache", 0, 50, "root", name="[red]cache[/red]", attributes={"cache.hit": False}),
        span("get", 10, 50, "cache", name="GET", is_error=True),
        span("lost", 20, 40, "nobody", name="orphan"),
    ],
)


def shown(page: RenderableType, width: int = 160) -> str:
    file = StringIO()
    Console(file=file, width=width, highlight=False, force_terminal=False).print(page)
    return file.getvalue()


def test_the_dependencies_of_all_traces() -> None:
    text = shown(breakdown_page(breakdown(LEDGER, WINDOW)))
    assert "1 trace with a model call, of 1 request: P50 " in text
    assert "shop / [red]cache[/red]" in text
    assert "tokenworks / decode" in text
    assert "\x1b" not in text
    assert "in 1 trace the parent of a span is missing" in text
    assert "origin: what a miss of the cache took to fetch" in text


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_where_there_is_no_room_columns_go_and_no_figure_is_cut(width: int) -> None:
    lines = shown(breakdown_page(breakdown(LEDGER, WINDOW)), width).splitlines()
    (heading,) = [line for line in lines if "dependency" in line]
    (cache,) = [line for line in lines if "[red]" in line or line.startswith(" shop / [r")]
    assert max(map(len, lines)) <= width
    assert "of tail" in heading
    assert ("P99" in heading) == (width > 50)
    assert ("origin P50" in heading) == (width > 100)
    assert "…" not in cache[24:]


def test_one_trace_span_by_span() -> None:
    chain = chain_of(LEDGER, "t")
    assert chain is not None
    lines = shown(chain_page(chain)).splitlines()
    assert lines[0] == "trace t: 1 s, 7 spans"
    assert "requests: req-0" in lines[1]
    (get,) = [line for line in lines if "GET" in line]
    assert "    GET (error)" in get
    assert "40 ms" in get
    assert not any("\x1b" in line for line in lines)
    assert "the parent of 1 span is missing" in lines[-1]


def test_without_spans_it_says_how_to_send_some() -> None:
    text = shown(breakdown_page(breakdown(MemoryLedger([record()]), WINDOW)))
    assert "1 request in this window" in text
    assert "/v1/traces" in text
