"""What the gateway passes on to the observer, and what it says where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from google.protobuf.json_format import Parse
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.free_port import free_port
from tests.observe.asked import RunningApi
from tests.observe.memory_ledger import MemoryLedger
from tests.observe.traffic import MARKUP, SCRIPT, mixed_traffic
from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.errors import LedgerDamaged
from tokenworks.gateway.http import observer_client
from tokenworks.observe.ledger import OpenLedger
from tokenworks.observe.observer.figures import AlertFigure, Figures

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig


async def told_back(request: Request) -> Response:
    """Stands for the intake of spans: says what arrived."""
    body = await request.body()
    headers = [request.headers.get(name, "-") for name in ("content-type", "content-encoding", "authorization")]
    return Response(b" ".join([body, *(header.encode() for header in headers)]), 202, media_type="text/plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


@pytest.fixture(scope="module")
def observed_rig(folder: Path, running_rig: MakeRig) -> Iterator[Rig]:
    """A gateway, and an observer over made-up traffic."""
    settings = LedgerSettings(path=str(folder))
    ledger = MemoryLedger(mixed_traffic(time.time_ns(), 120))
    api = RunningApi(Settings(ledger=settings), lambda: ledger, Route("/v1/traces", told_back, methods=["POST"]))
    try:
        with running_rig(ledger=settings) as rig:
            yield rig
    finally:
        api.close()


def test_questions_are_passed_on_as_they_are(observed_rig: Rig) -> None:
    answer = observed_rig.http.get("/observe/table", params={"by": "tenant", "where": f"tenant={MARKUP}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert [row["tenant"] for row in answer.json()["rows"]] == [MARKUP]
    assert answer.json()["total"]["requests"] == answer.json()["rows"][0]["requests"] > 0


def test_a_tag_is_a_filter_of_everything(observed_rig: Rig) -> None:
    whole = observed_rig.http.get("/observe/table?by=all").json()["total"]["requests"]
    asked = {"where": f"tag:feature={MARKUP}", "columns": "requests"}
    table, series = (observed_rig.http.get(f"/observe/{each}", params=asked).json() for each in ("table", "series"))
    assert table["total"]["requests"] == sum(point["requests"] for point in series["points"]) == whole
    for value, count in ((MARKUP, 5), ("nothing", 0)):
        answer = observed_rig.http.get("/observe/requests", params={"where": f"tag:feature={value}", "limit": 5})
        assert len(answer.json()["requests"]) == count


def test_the_gateway_itself_tells_what_it_has_not_written(observed_rig: Rig) -> None:
    answer = observed_rig.http.get("/observe/journal")
    assert set(answer.json()) == {"waiting_frames", "dropped_frames", "failure"}
    assert answer.json()["failure"] == ""
    refused = observed_rig.http.get("/observe/journal", headers={"host": "elsewhere.example"})
    assert (
        refused.status_code
        == observed_rig.http.get("/observe/status", headers={"host": "elsewhere.example"}).status_code
        >= 400
    )


def test_the_gateway_itself_tells_which_alerts_fire(
    observed_rig: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> object:
        return observed_rig.http.get("/observe/alerts").json()["alerts"]

    assert asked() is None  # no observer has written: nobody knows
    outlet = observed_rig.gateway.gateway.service.metrics.observer
    alerts = [
        AlertFigure("Drift", "tenant", "ticket", "moved", 1_500_000_000),
        AlertFigure("WorkerLost", MARKUP, "ticket", "it died", 1_000_000_000),
        AlertFigure("NoReadyWorker", "", "page", "nobody was ready", 2_000_000_000),
    ]
    monkeypatch.setattr(outlet, "fresh", lambda: Figures(0, alerts=alerts))
    assert asked() == [
        {"name": "NoReadyWorker", "subject": "", "severity": "page", "summary": "nobody was ready", "since_s": 2.0},
        {"name": "WorkerLost", "subject": MARKUP, "severity": "ticket", "summary": "it died", "since_s": 1.0},
        {"name": "Drift", "subject": "tenant", "severity": "ticket", "summary": "moved", "since_s": 1.5},
    ]
    assert observed_rig.http.get("/observe/alerts", headers={"host": "elsewhere.example"}).status_code >= 400


def test_those_that_failed_and_the_columns_of_troubles_are_asked_for(observed_rig: Rig) -> None:
    answer = observed_rig.http.get("/observe/requests", params={"order": "failed", "limit": 3}).json()
    outcomes = [request["outcome"] for request in answer["requests"]]
    assert outcomes
    assert "ok" not in outcomes
    ends = [request["ended_s"] for request in answer["requests"]]
    assert ends == sorted(ends, reverse=True)
    plain, told = (observed_rig.http.get(f"/observe/table?troubles={each}").json() for each in ("no", "yes"))
    more = [each["key"] for each in told["columns"] if each not in plain["columns"]]
    assert more == ["failure_rate"]
    assert more[0] in observed_rig.http.get("/observe/series?preset=online&troubles=yes").json()["points"][0]


def test_an_id_of_any_characters_is_explained(observed_rig: Rig) -> None:
    """The first of the made-up requests is called by markup with slashes in it."""
    answer = observed_rig.http.get(f"/observe/explain/{quote(SCRIPT, safe='')}")
    assert (answer.status_code, answer.json()["id"]) == (200, SCRIPT)


@pytest.mark.parametrize(
    ("question", "status", "word"),
    [
        ("nothing", 404, "/observe/table"),
        ("explain/nobody", 404, "no record"),
        ("table?by=colour", 400, "scenario"),
        ("table?whre=tenant=acme", 400, "where"),
        ("table?where=acme", 400, "DIMENSION=VALUE"),
        ("table?where=tenant=a&where=tenant=b", 400, "DIMENSION=VALUE"),
        ("table?where=colour=red", 400, "tenant"),
        ("table?by=tag:a&where=tag:b=1", 400, "tag:a and tag:b"),
        ("table?preset=best", 400, "online"),
        ("table?columns=ttft_p98", 400, "nearest"),
        ("table?since=yesterday", 400, "since"),
        ("table?since=5m&until=10m", 400, "before"),
        ("table?since=1h&since=2h", 400, "twice"),
        ("requests?limit=0", 400, "from 1 to 500"),
        ("requests?limit=9999999999999", 400, "from 1 to 500"),
        ("requests?order=best", 400, "slowest"),
        (f"table?preset={'x' * 2000}", 400, "longer"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong(observed_rig: Rig, question: str, status: int, word: str) -> None:
    answer = observed_rig.http.get(f"/observe/{question}")
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]


def test_a_method_that_is_none_is_told(observed_rig: Rig) -> None:
    assert observed_rig.http.post("/observe/table").json()["error"]["code"] == "method_not_allowed"


def test_spans_are_passed_on_without_the_key(observed_rig: Rig) -> None:
    headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip", "authorization": "Bearer tw-x"}
    answer = observed_rig.http.post("/v1/traces", content=b"\x0a\xff", headers=headers)
    assert answer.status_code == 202
    assert answer.content == b"\x0a\xff application/x-protobuf gzip -"


@pytest.mark.parametrize("content_type", ["application/x-protobuf", "application/json; charset=utf-8"])
def test_what_the_gateway_refuses_of_spans_is_a_status_as_otlp_has_it(
    running_rig: MakeRig, tmp_path: Path, content_type: str
) -> None:
    """No observer, a body that is too large, no key: an exporter reads google.rpc.Status, in its own encoding."""

    def refusal(rig: Rig, content: bytes) -> tuple[int, int]:
        answer = rig.http.post("/v1/traces", content=content, headers={"content-type": content_type})
        assert answer.headers["content-type"] == content_type.partition(";")[0]
        if answer.headers["content-type"] == "application/json":
            status = Parse(answer.text, Status())
        else:
            status = Status.FromString(answer.content)
        assert len(status.message) > 20
        return answer.status_code, status.code

    with running_rig(ledger=LedgerSettings(path=str(tmp_path))) as rig:
        assert refusal(rig, b"spans") == (503, code_pb2.UNAVAILABLE)
        assert refusal(rig, b"x" * (1 << 20 | 1)) == (413, code_pb2.RESOURCE_EXHAUSTED)
        assert refusal(rig, b"") == (400, code_pb2.INVALID_ARGUMENT)
        assert "tokenworks observer" in rig.http.get("/observe/table").json()["error"]["message"]  # OpenAI's, as ever
    with running_rig(ledger=LedgerSettings(path=str(tmp_path)), auth="required") as rig:
        assert refusal(rig, b"spans") == (401, code_pb2.UNAUTHENTICATED)


@pytest.mark.parametrize("client", ["203.0.113.7", "2001:db8::1"])
@pytest.mark.parametrize("path", ["/observe/table", "/dashboard", "/dashboard/script.js"])
def test_other_machines_are_refused(observed_rig: Rig, client: str, path: str) -> None:
    answer = observed_rig.http.get(path, headers={"x-forwarded-for": client})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "ssh -L" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil"])
def test_a_name_that_somebody_made_lead_here_is_refused(observed_rig: Rig, host: str) -> None:
    """Or a page in a browser here could read the figures (DNS rebinding)."""
    for path in ("/observe/table", "/dashboard", "/admin/workers"):
        assert observed_rig.http.get(path, headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]:8000", "[::1]", "localhost:1", "LOCALHOST", "box.localhost", "10.0.0.5:80"]
)
def test_addresses_and_localhost_are_this_machine(observed_rig: Rig, host: str) -> None:
    assert observed_rig.http.get("/dashboard", headers={"host": host}).status_code == 200


def test_without_an_observer_it_says_so(running_rig: MakeRig, tmp_path: Path) -> None:
    with running_rig(ledger=LedgerSettings(path=str(tmp_path))) as rig:
        answer = rig.http.get("/observe/table")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "observer_unavailable")
        assert "tokenworks observer" in answer.json()["error"]["message"]
        assert rig.http.get("/dashboard").status_code == 200


def test_without_a_ledger_it_says_so(running_rig: MakeRig) -> None:
    with running_rig(ledger=LedgerSettings(path="off")) as rig:
        answer = rig.http.get("/observe/table")
        assert (answer.status_code, "switched off" in answer.json()["error"]["message"]) == (503, True)


def test_an_observer_that_came_back_answers(running_rig: MakeRig, tmp_path: Path) -> None:
    """The socket of one that was killed lies there; the next one takes its place."""
    settings = LedgerSettings(path=str(tmp_path))
    with running_rig(ledger=settings) as rig:
        for _ in range(2):
            api = RunningApi(Settings(ledger=settings), MemoryLedger)
            assert rig.http.get("/observe/table").json()["rows"] == []
            api.close()
            assert (tmp_path / "observer.sock").exists()
            assert rig.http.get("/observe/table").status_code == 503


def test_a_folder_deeper_than_a_sockets_name_may_be(running_rig: MakeRig, tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    settings = LedgerSettings(path=str(folder))
    api = RunningApi(Settings(ledger=settings), MemoryLedger)
    try:
        with running_rig(ledger=settings) as rig:
            assert rig.http.get("/observe/table").json()["rows"] == []
    finally:
        api.close()


def test_an_observer_may_be_asked_over_tcp(running_rig: MakeRig) -> None:
    settings = LedgerSettings(path="off", address=f"http://127.0.0.1:{free_port()}")
    api = RunningApi(Settings(ledger=settings), MemoryLedger)
    try:
        with running_rig(ledger=settings) as rig:
            assert rig.http.get("/observe/table").json()["rows"] == []
    finally:
        api.close()


def test_a_damaged_ledger_is_told_and_tried_again(running_rig: MakeRig, tmp_path: Path) -> None:
    found: list[OpenLedger] = []

    def open_ledger() -> OpenLedger:
        if not found:
            raise LedgerDamaged("the ledger is no database")
        return found[0]

    settings = LedgerSettings(path=str(tmp_path))
    api = RunningApi(Settings(ledger=settings), open_ledger)
    try:
        with running_rig(ledger=settings) as rig:
            answer = rig.http.get("/observe/table?since=1h")
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "ledger_damaged")
            found.append(MemoryLedger())
            assert rig.http.get("/observe/table?since=2h").status_code == 200
    finally:
        api.close()


class BrokenLedger(MemoryLedger):
    """Has a bug."""

    def extent(self) -> None:
        raise RuntimeError("a bug with details")


def test_a_bug_is_an_error_without_its_details(running_rig: MakeRig, tmp_path: Path) -> None:
    settings = LedgerSettings(path=str(tmp_path))
    api = RunningApi(Settings(ledger=settings), BrokenLedger)
    try:
        with running_rig(ledger=settings) as rig:
            answer = rig.http.get("/observe/status")
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
            assert "details" not in answer.json()["error"]["message"].replace("has the details", "")
    finally:
        api.close()


class SlowLedger(MemoryLedger):
    """Holds every question until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.num_asked = 0

    def extent(self) -> None:
        self.num_asked += 1
        self.go.wait(20)


def test_ten_dashboards_cost_what_one_costs(running_rig: MakeRig, tmp_path: Path) -> None:
    ledger = SlowLedger()
    settings = LedgerSettings(path=str(tmp_path))
    api = RunningApi(Settings(ledger=settings), lambda: ledger)
    try:
        with running_rig(ledger=settings) as rig:
            ask = [threading.Thread(target=rig.http.get, args=("/observe/status",)) for _ in range(10)]
            for each in ask:
                each.start()
            assert rig.http.get("/observe/nothing").status_code == 404  # its event loop is free meanwhile
            ledger.go.set()
            for each in ask:
                each.join()
    finally:
        ledger.go.set()
        api.close()
    assert ledger.num_asked <= 2  # those that came after a second, on a slow machine, are a question of their own


def test_an_observer_that_is_too_slow_is_not_waited_for(
    running_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer_client, "TIMEOUT_S", 0.2)
    ledger = SlowLedger()
    settings = LedgerSettings(path=str(tmp_path))
    api = RunningApi(Settings(ledger=settings), lambda: ledger)
    try:
        with running_rig(ledger=settings) as rig:
            answer = rig.http.get("/observe/status")
            assert (answer.status_code, "shorter window" in answer.json()["error"]["message"]) == (503, True)
    finally:
        ledger.go.set()
        api.close()


def test_an_answer_that_is_too_large_is_not_kept_in_memory(observed_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer_client, "MAX_ANSWER_BYTES", 100)
    answer = observed_rig.http.get("/observe/table?limit=7")
    assert (answer.status_code, "too large" in answer.json()["error"]["message"]) == (503, True)
