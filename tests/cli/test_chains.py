"""`tokenworks chains` over a real ledger."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.observe.made import record, span
from tokenworks.cli.main import main
from tokenworks.contract.config import LedgerSettings
from tokenworks.observe.ledger import Span
from tokenworks.observe.store import open_ledger, sql_ledger

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "4bf92f3577b34da6a3ce929d0e0e4737"
NOW_NS = time.time_ns()


def spans() -> list[Span]:
    """As an application sends them: a root, a search, and the call of the model."""
    told = [
        span("aa" * 8, 0, 1000, name="answer", kind="server", trace_id=TRACE),
        span("bb" * 8, 0, 600, "aa" * 8, name="search", trace_id=TRACE),
        span("cc" * 8, 600, 1000, "aa" * 8, name="chat", kind="client", trace_id=TRACE),
    ]
    moved = [{"started_ns": NOW_NS - 1_000_000_000 + round(index * 6e8) * (index == 2)} for index in range(3)]
    return [_with(each, **fields) for each, fields in zip(told, moved, strict=True)]


def _with(each: Span, **fields: object) -> Span:
    from msgspec.structs import replace

    return replace(each, **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with one chain of two model calls, and one request without any spans."""
    path = tmp_path_factory.mktemp("ledger")
    calls = [
        record(
            n,
            NOW_NS - 10**8 * n,
            10**8,
            trace_id=TRACE,
            span_id=f"{n + 1:016x}",
            parent_span_id="cc" * 8,
            endpoint="/v1/chat/completions",
        )
        for n in (0, 1)
    ]
    ledger = open_ledger(LedgerSettings(path=str(path)), is_writing=True)
    ledger.take_in([*calls, record(7, NOW_NS, trace_id=OTHER, span_id="7" * 16)], spans())
    ledger.close()
    return path


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["chains", "--ledger-path", str(folder), *arguments])


def test_the_dependencies_of_the_last_hour(folder: Path) -> None:
    found = json.loads(run(folder, "--json").stdout)
    assert (found["traces"], found["requests"]) == (1, 3)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["search"]["tail_share"] == pytest.approx(0.6)
    assert rows["chat qwen"]["count"] == 2
    assert sum(row["tail_share"] for row in found["rows"]) == pytest.approx(1)
    assert "shop / search" in run(folder).stdout


@pytest.mark.parametrize("name", [TRACE, "req-0"])
def test_one_trace_by_its_id_or_by_a_requests(folder: Path, name: str) -> None:
    chain = json.loads(run(folder, name, "--json").stdout)
    assert chain["request_ids"] == ["req-1", "req-0"]
    assert sum(link["critical_ns"] for link in chain["links"]) == 10**9
    assert f"trace {TRACE}: 1 s, 9 spans" in run(folder, name).stdout


def test_of_a_trace_without_end_the_first_spans_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_ledger, "MAX_SPANS", 2)
    ledger = open_ledger(LedgerSettings(path=str(folder)))
    assert [span.name for span in ledger.spans(TRACE)] == ["answer", "search"]
    ledger.close()


def test_what_it_does_not_know_it_says(folder: Path) -> None:
    result = run(folder, "nobody")
    assert result.exit_code == 1
    assert "nobody" in result.output
    assert run(folder, "--since", "now", "--until", "1h").exit_code == 2


def test_a_window_without_traces_says_how_to_send_some(folder: Path) -> None:
    assert "/v1/traces" in run(folder, "--since", "9d", "--until", "8d").stdout
