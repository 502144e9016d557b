"""Spans in a real observer: ours to a collector, alive or dead, and others' into the ledger, or back to the sender."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from tests.observe.made import record
from tests.observe.otlp_rig import Receiver, export, raw_span, running
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Record
from tokenworks.observe.chains import span_tasks
from tokenworks.observe.chains.span_tasks import traces_route
from tokenworks.observe.journal.writer import Journal
from tokenworks.observe.observer import waiting_spans
from tokenworks.observe.observer.address import socket_path
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.figures import SpanFigures
from tokenworks.observe.observer.waiting_spans import WaitingSpans
from tokenworks.observe.store import open_ledger

OBSERVER = [sys.executable, "-m", "tokenworks", "observer", "--ledger-path"]
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
    command = [*OBSERVER, str(folder), *options]
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
    done = subprocess.run(
        [*OBSERVER, str(tmp_path), "--otlp-endpoint", "collector:4317"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "http://HOST:4318" in done.stderr


def test_spans_that_find_no_room_go_back_to_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_spans, "MAX_WAITING_SPANS", 1)
    monkeypatch.setattr(span_tasks, "PATIENCE_S", 0.01)
    waiting = WaitingSpans()
    with running(endpoint_of(waiting)) as url:
        found = [send(url) for _ in range(2)]
    assert [(each.status_code, each.headers["retry-after"]) for each in found] == [(503, "5")] * 2
    assert len(waiting.first()) == 1


@pytest.mark.parametrize(("error", "status"), [(None, 200), (LedgerError("it is damaged"), 503)])
def test_spans_are_accepted_when_they_are_kept_and_not_before(error: Exception | None, status: int) -> None:
    waiting, answers = WaitingSpans(), list[httpx.Response]()
    with running(endpoint_of(waiting)) as url:
        sender = threading.Thread(target=lambda: answers.append(send(url)))
        sender.start()
        until(waiting.first)
        assert answers == []
        waiting.done(1, error)
        sender.join(PATIENCE_S)
    assert [each.status_code for each in answers] == [status]
    assert waiting.first() == []


def endpoint_of(waiting: WaitingSpans) -> Callable[..., Any]:
    context = cast(ObserverContext, SimpleNamespace(tell=waiting.offer, spans=SpanFigures()))
    return cast(Callable[..., Any], traces_route(context).endpoint)


def send(url: str) -> httpx.Response:
    body = export(raw_span()).SerializeToString()
    return httpx.post(f"{url}/v1/traces", content=body, headers={"content-type": "application/x-protobuf"}, timeout=60)


def test_what_was_accepted_outlives_a_killed_observer(tmp_path: Path) -> None:
    """Killed the moment after it has said so."""
    address = LedgerSettings(path=str(tmp_path))
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen([*OBSERVER, str(tmp_path)], stderr=subprocess.PIPE))
        stack.callback(process.kill)
        until(lambda: can_connect(address))
        client = httpx.Client(transport=httpx.HTTPTransport(uds=str(socket_path(address))), timeout=PATIENCE_S)
        stack.enter_context(client)
        span = raw_span(start_time_unix_nano=time.time_ns(), end_time_unix_nano=time.time_ns())
        headers = {"content-type": "application/x-protobuf"}
        answer = client.post("http://observer/v1/traces", content=export(span).SerializeToString(), headers=headers)
        process.kill()
        assert answer.status_code == 200
    with closing(open_ledger(address)) as ledger:
        assert [each.name for each in ledger.spans(span.trace_id.hex())] == [span.name]


def can_connect(address: LedgerSettings) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(socket_path(address))) == 0
