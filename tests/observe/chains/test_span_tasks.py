"""Spans in a real observer: ours to a collector, alive or dead, and others' into the ledger, or back to the sender."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from tests.observe.made import record
from tests.observe.otlp_rig import Receiver, export, raw_span, running
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Record
from tokenworks.observe.chains.span_tasks import traces_route
from tokenworks.observe.journal.writer import Journal
from tokenworks.observe.ledger import Span
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.figures import SpanFigures
from tokenworks.observe.store import open_ledger

PATIENCE_S = 60.0
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def observing(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tokenworks observer` on this folder."""
    command = [sys.executable, "-m", "tokenworks", "observer", "--ledger-path", str(folder), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        yield process
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()


def traced(number: int) -> Record:
    return record(number, time.time_ns(), trace_id=f"{number + 1:032x}", span_id=f"{number + 1:016x}")


def write(folder: Path, *records: Record) -> None:
    """What a gateway does at the end of requests."""
    journal = Journal(folder / "journal", "gateway", 0.05)
    for each in records:
        journal.append(each)
    journal.close()


def is_known(folder: Path, request_id: str) -> bool:
    try:
        ledger = open_ledger(LedgerSettings(path=str(folder)))
    except LedgerError:
        return False  # not made yet
    try:
        return ledger.record(request_id) is not None
    finally:
        ledger.close()


def test_every_record_reaches_the_collector_once(tmp_path: Path) -> None:
    receiver = Receiver()
    with running(receiver.traces) as url, observing(tmp_path, "--otlp-endpoint", url):
        for number in range(3):
            write(tmp_path, traced(number))
        until(lambda: len({span.trace_id for span in receiver.spans}) == 3)
    requests = [span.trace_id for span in receiver.spans if span.kind == "server"]
    assert sorted(requests) == [traced(number).trace_id for number in range(3)]


@pytest.mark.parametrize("collector", ["dead", "broken"])
def test_a_collector_that_is_dead_or_broken_holds_up_no_record(tmp_path: Path, collector: str) -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError("a collector with a bug")

    with running(broken) as url, ExitStack() as stack:
        stack.enter_context(observing(tmp_path, "--otlp-endpoint", NOBODY if collector == "dead" else url))
        write(tmp_path, *(traced(number) for number in range(300)))
        until(lambda: is_known(tmp_path, "req-299"))
        write(tmp_path, traced(300))
        until(lambda: is_known(tmp_path, "req-300"))


def test_an_address_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tokenworks", "observer", "--ledger-path", str(tmp_path)]
    done = subprocess.run([*command, "--otlp-endpoint", "collector:4317"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "http://HOST:4318" in done.stderr


def test_spans_that_find_no_room_go_back_to_the_sender() -> None:
    room, told = 1, list[Span]()

    def tell(spans: list[Span]) -> int:
        taken = spans[: room - len(told)]
        told.extend(taken)
        return len(taken)

    context = cast(ObserverContext, SimpleNamespace(tell=tell, spans=SpanFigures()))
    endpoint = traces_route(context).endpoint
    with running(endpoint) as url:
        headers = {"content-type": "application/x-protobuf"}
        body = export(raw_span()).SerializeToString()
        found = [httpx.post(f"{url}/v1/traces", content=body, headers=headers) for _ in range(2)]
    assert [each.status_code for each in found] == [200, 503]
    assert len(told) == 1
