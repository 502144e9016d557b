"""However a request ends, it leaves exactly one record, whose stages are a partition of its time."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import OpenAI

from tests.gateway.test_lifetimes import PROMPT, open_stream
from tests.gateway.test_resends import refuse, refuse_this, start
from tests.gateway.test_splits import LONG, pair
from tokenworks.contract.config import CostSettings, LedgerSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Record, SequenceReport, Stage, Work
from tokenworks.contract.request import Request, Scenario
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.gateway.keys.tenants import Caller, caller_of
from tokenworks.gateway.pool.flights import MAX_RESENDS
from tokenworks.gateway.records.record import Recording

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, WaitUntil

BODY = {"prompt": PROMPT, "max_tokens": 20, "seed": 5}
REPORT = SequenceReport(
    stages_ns={Stage.QUEUE: 1_000, Stage.PREFILL: 20_000, Stage.DECODE: 30_000, Stage.STALL: 500},
    device_ns={Work.PREFILL: 15_000, Work.DECODE: 10_000},
)


def only(rig: Rig) -> Record:
    """The one record that there is; it is whole."""
    [record] = rig.records(1)
    check(record)
    return record


def check(record: Record) -> None:
    """What holds of every record."""
    assert sum(record.stages_ns.values()) == record.e2e_ns
    assert all(spent_ns > 0 for spent_ns in record.stages_ns.values())
    assert abs(time.time_ns() - record.started_ns) < 120e9
    assert record.model == "tiny-echo"
    assert record.endpoint in ("/v1/completions", "/v1/chat/completions")
    assert (len(record.trace_id), len(record.span_id)) == (32, 16)
    assert record.gateway
    for leg in record.legs:
        assert leg.start_ns >= 0
        assert leg.span_ns >= 0
        assert leg.reason
    assert record.legs == sorted(record.legs, key=lambda leg: leg.start_ns)


def outcomes(record: Record) -> list[tuple[str, str, str, str]]:
    return [(leg.worker, leg.kind, leg.reason, leg.outcome) for leg in record.legs]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_ends_well(recording_rig: Rig, stream: bool) -> None:
    recording_rig.add_worker().report = REPORT
    headers = {"x-request-id": "mine-1", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    body = {**BODY, "stream": stream, "service_tier": "flex", "metadata": {"app": "search"}}
    answer = recording_rig.http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200
    record = only(recording_rig)
    assert f'"id":"{record.answer_id}"' in answer.text
    assert (record.id, record.trace_id, record.parent_span_id) == ("mine-1", "a" * 32, "b" * 16)
    assert (record.outcome, record.status, record.is_stream) == ("ok", 200, stream)
    assert (record.tenant, record.key, record.scenario) == ("anonymous", "", Scenario.OFFLINE)
    assert (record.tags, record.version) == ({"app": "search"}, "scripted")
    assert (record.prompt_tokens, record.output_tokens, record.finish_reasons) == (2, 20, ["length"])
    assert record.cached_tokens == {Tier.DEVICE: 4}
    assert record.ttft_ns is not None
    assert 0 < record.ttft_ns <= record.e2e_ns
    assert len(array("I", record.gaps_us)) == 19
    assert outcomes(record) == [("w0", "whole", "only worker", "ok")]
    assert record.legs[0].report == REPORT
    assert {stage: record.stages_ns[stage] for stage in REPORT.stages_ns} == REPORT.stages_ns
    inside_ns = sum(REPORT.stages_ns.values())
    assert record.stages_ns[Stage.WIRE] == record.legs[0].span_ns - inside_ns
    gateways = {Stage.RECEIVE, Stage.TOKENISE, Stage.ADMIT, Stage.ROUTE, Stage.DETOKENISE, Stage.WRITE}
    assert gateways <= record.stages_ns.keys()


def test_a_worker_that_takes_its_time(recording_rig: Rig) -> None:
    """20 tokens with 20 ms before each; `tests/e2e/test_records.py` holds a record against a client's clock."""
    worker = recording_rig.add_worker()
    worker.answer = slowly(worker.answer)
    with OpenAI(base_url=f"{recording_rig.gateway.url}/v1", api_key="none", http_client=httpx.Client()) as client:
        client.completions.create(model="tiny-echo", prompt="warm", max_tokens=1)
        answer = client.completions.with_raw_response.create(model="tiny-echo", prompt="the dog", max_tokens=20)
    by_id = {record.id: record for record in recording_rig.records(2)}
    record = by_id[answer.headers["x-request-id"]]
    check(record)
    assert record.stages_ns[Stage.PREFILL] + record.stages_ns[Stage.DECODE] == record.legs[0].span_ns > 0.4e9


def short(request: Request) -> Iterator[SequenceOutput]:
    yield SequenceOutput(request.id, [7], end=End(EndReason.LENGTH))


def slowly(answer: Any) -> Any:
    """The same, with a pause before every token."""

    def paced(request: Request) -> Iterator[SequenceOutput]:
        for output in answer(request):
            time.sleep(0.02)
            yield output

    return paced


def test_a_stop_string_is_a_good_end_and_its_worker_tells_afterwards(recording_rig: Rig) -> None:
    worker = recording_rig.add_worker(max_steps=2)
    worker.report = REPORT
    answer = recording_rig.post("/v1/completions", **BODY, stop=stop_text(recording_rig))
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    record = only(recording_rig)
    assert (record.outcome, record.finish_reasons) == ("ok", ["stop"])
    assert [(leg.outcome, leg.report) for leg in record.legs] == [("cancelled", REPORT)]


def stop_text(rig: Rig) -> str:
    """The text of the second token that PROMPT is answered with."""
    return str(rig.post("/detokenize", tokens=[PROMPT[1] + 1]).json()["prompt"])


@pytest.mark.parametrize("how", ["silent", "lost"])
def test_a_worker_that_never_tells_is_waited_for_no_longer_than_a_lease(hasty_rig: Rig, how: str) -> None:
    worker = hasty_rig.add_worker(max_steps=2)
    worker.tells_cancelled = False
    hasty_rig.post("/v1/completions", **BODY, stop=stop_text(hasty_rig))
    if how == "lost":
        hasty_rig.kill(worker)
    record = only(hasty_rig)
    assert [(leg.outcome, leg.report) for leg in record.legs] == [("cancelled", None)]
    assert record.stages_ns[Stage.PREFILL] > 0
    assert len(hasty_rig.gateway.gateway.dispatcher._farewells) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away(recording_rig: Rig, wait_until: WaitUntil, stream: bool) -> None:
    worker = recording_rig.add_worker()
    worker.max_steps, worker.report = 3, REPORT
    flights = recording_rig.gateway.gateway.dispatcher._flights
    with recording_rig.asking(**BODY, stream=stream, n=2):
        wait_until(lambda: [len(flight._new_ids) for flight in list(flights.values())] == [3, 3])
    record = only(recording_rig)
    assert (record.outcome, record.status) == ("client_gone", 200 if stream else 0)
    assert [(leg.sequence, leg.outcome, leg.report) for leg in record.legs] == [
        (0, "cancelled", REPORT),
        (1, "cancelled", REPORT),
    ]
    assert record.output_tokens == 6
    assert record.finish_reasons == []


def test_n_choices_are_one_record_with_the_way_of_the_last(recording_rig: Rig) -> None:
    worker = recording_rig.add_worker()
    usual = worker.answer
    worker.answer = lambda request: slowly(usual)(request) if request.id.endswith("-1") else short(request)
    recording_rig.post("/v1/completions", **BODY, n=3)
    record = only(recording_rig)
    assert (record.num_sequences, record.output_tokens, record.prompt_tokens) == (3, 22, 2)
    assert record.finish_reasons == ["length"] * 3
    assert [leg.sequence for leg in record.legs] == [0, 1, 2]
    assert len(array("I", record.gaps_us)) == 19
    last = record.legs[1]
    assert last.start_ns + last.span_ns == max(leg.start_ns + leg.span_ns for leg in record.legs)
    assert record.stages_ns[Stage.PREFILL] + record.stages_ns[Stage.DECODE] == last.span_ns


@pytest.mark.parametrize("num_seen", [0, 7])
def test_a_worker_that_dies_is_a_lost_leg(recording_rig: Rig, wait_until: WaitUntil, num_seen: int) -> None:
    first = recording_rig.add_worker("w0")
    first.max_steps = num_seen
    asking, found = start(recording_rig)
    wait_until(lambda: first.submitted and first._steps[first.submitted[0].id] == num_seen)
    recording_rig.kill(first)
    recording_rig.add_worker("w1").report = REPORT
    asking.join()
    assert found[0].status_code == 200
    record = only(recording_rig)
    assert [(leg.worker, leg.outcome, leg.reason) for leg in record.legs] == [
        ("w0", "lost", "only worker"),
        ("w1", "ok", "lost"),
    ]
    lost, again = record.legs
    assert again.kind in ("whole", "continuation")
    assert record.stages_ns[Stage.LOST] == lost.span_ns
    assert record.stages_ns[Stage.ROUTE] >= again.start_ns - lost.start_ns - lost.span_ns
    assert (record.outcome, record.output_tokens) == ("ok", 20)


def test_a_request_that_takes_its_workers_with_it_fails_with_all_its_legs(
    recording_rig: Rig, wait_until: WaitUntil
) -> None:
    worker = recording_rig.add_worker("w0")
    _, found, close = open_stream(recording_rig)
    for number in range(MAX_RESENDS):
        recording_rig.kill(worker)
        worker = recording_rig.add_worker(f"again{number}", max_steps=1)
        wait_until(lambda last=worker: last.submitted)
    recording_rig.kill(worker)
    list(found)
    close()
    record = only(recording_rig)
    assert (record.outcome, record.status) == ("worker_lost", 200)
    assert [leg.outcome for leg in record.legs] == ["lost"] * (1 + MAX_RESENDS)
    assert [leg.kind for leg in record.legs[1:]] == ["continuation"] * MAX_RESENDS


def test_a_refused_leg_and_the_one_after_it(recording_rig: Rig) -> None:
    leaver = recording_rig.add_worker("w0")
    recording_rig.add_worker("w1")
    leaver.answer, leaver.report = refuse, REPORT
    recording_rig.post("/v1/completions", **BODY)
    record = only(recording_rig)
    assert outcomes(record) == [("w0", "whole", "short prompt", "refused"), ("w1", "whole", "refused", "ok")]
    assert record.stages_ns[Stage.LOST] == record.legs[0].span_ns
    assert record.legs[0].report == REPORT


def test_a_request_that_nobody_can_take(recording_rig: Rig) -> None:
    recording_rig.add_worker("w0").answer = refuse_this
    assert recording_rig.post("/v1/completions", **BODY).status_code == 400
    record = only(recording_rig)
    assert (record.outcome, record.status) == ("invalid_value", 400)
    assert [leg.outcome for leg in record.legs] == ["refused"]


def test_a_worker_that_fails(recording_rig: Rig) -> None:
    recording_rig.add_worker().answer = lambda request: iter(
        [SequenceOutput(request.id, end=End(EndReason.FAILED, error="the kernel said no"))]
    )
    recording_rig.post("/v1/completions", **BODY, n=2)
    record = only(recording_rig)
    assert (record.outcome, record.status) == ("engine_failed", 500)
    assert {leg.outcome for leg in record.legs} <= {"failed", "cancelled"}
    assert "failed" in {leg.outcome for leg in record.legs}


def test_a_split_request_has_a_leg_for_each_half(recording_rig: Rig) -> None:
    prefill, decode = pair(recording_rig)
    prefill.report = SequenceReport(stages_ns={Stage.PREFILL: 10_000, Stage.PUBLISH: 5_000})
    decode.report = SequenceReport(stages_ns={Stage.FETCH_HOST: 7_000, Stage.DECODE: 9_000})
    recording_rig.post("/v1/completions", prompt=LONG, max_tokens=6)
    record = only(recording_rig)
    assert outcomes(record) == [("p", "prefill", "spares decoders", "ok"), ("d", "whole", "prefilled", "ok")]
    assert [leg.cached_tokens for leg in record.legs] == [0, 100]
    assert record.legs[0].predicted_ns == pytest.approx(1.03e9, rel=0.01)
    assert record.legs[1].predicted_ns is None
    expected = {Stage.PREFILL: 10_000, Stage.PUBLISH: 5_000, Stage.FETCH_HOST: 7_000, Stage.DECODE: 9_000}
    assert {stage: record.stages_ns[stage] for stage in expected} == expected


def test_what_caching_saved_is_told_by_the_card(recording_rig: Rig) -> None:
    recording_rig.add_worker(prefill_s=0.01)
    recording_rig.post("/v1/completions", **BODY)
    assert only(recording_rig).legs[0].saved_ns == 40_000_000  # 4 tokens of 10 ms


def test_a_chat(recording_rig: Rig) -> None:
    recording_rig.add_worker()
    messages: list[Any] = [{"role": "user", "content": "the dog"}]
    answer = recording_rig.openai.chat.completions.create(
        model="tiny-echo", messages=messages, max_tokens=3, metadata={"app": "search", "step": "rerank"}
    )
    record = only(recording_rig)
    assert (record.endpoint, record.answer_id) == ("/v1/chat/completions", answer.id)
    assert record.tags == {"app": "search", "step": "rerank"}
    assert record.tenant == caller_of("any").tenant
    assert record.stages_ns[Stage.TOKENISE] > 0


def test_a_foreign_server_that_tells_nothing_is_known_by_its_first_words(recording_rig: Rig) -> None:
    foreign = recording_rig.add_worker("foreign", is_foreign=True)
    foreign.answer = lambda request: iter(
        [
            SequenceOutput(request.id, text="so ", text_tokens=2),
            SequenceOutput(request.id, text="what", text_tokens=1, end=End(EndReason.STOP)),
        ]
    )
    recording_rig.post("/v1/completions", **BODY)
    record = only(recording_rig)
    assert (record.outcome, record.version, record.output_tokens) == ("ok", "", 3)
    [leg] = record.legs
    assert record.stages_ns[Stage.PREFILL] + record.stages_ns[Stage.DECODE] == leg.span_ns
    assert sum(array("I", record.gaps_us)) <= leg.span_ns // 1000


def test_log_probabilities_leave_their_mean(recording_rig: Rig) -> None:
    recording_rig.add_worker()
    recording_rig.post("/v1/completions", **BODY, logprobs=1)
    assert only(recording_rig).mean_logprob == pytest.approx(-0.5)


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"temperature": 9}, 400, "invalid_value"),
    ({"tools": [1]}, 400, "unsupported_parameter"),
    ({"max_tokens": "many"}, 400, "invalid_value"),
    ({"model": "gpt-9"}, 404, "model_not_found"),
    ({"service_tier": "gold"}, 400, "invalid_value"),
    ({"metadata": {"k" * 65: "v"}}, 400, "invalid_value"),
    ({"metadata": {"k": "v" * 513}}, 400, "invalid_value"),
    ({"metadata": {str(number): "" for number in range(17)}}, 400, "invalid_value"),
    ({"prompt": [1] * 300}, 400, "context_length_exceeded"),
]


@pytest.mark.parametrize(("body", "status", "code"), REFUSED)
def test_what_is_turned_away_has_a_record_without_legs(
    recording_rig: Rig, body: dict[str, Any], status: int, code: str
) -> None:
    recording_rig.add_worker()
    answer = recording_rig.post("/v1/completions", **{**BODY, **body})
    assert answer.status_code == status
    record = only(recording_rig)
    assert (record.outcome, record.status, record.legs) == (code, status, [])
    assert record.is_rejected
    assert record.tags == {}
    if "metadata" in body:
        assert "give at most" in answer.text or "send at most" in answer.text


@pytest.mark.parametrize("content", [b"{", b"[]", b"5", b"\xff", b"", b"x" * (2 << 20)])
def test_what_was_not_understood_has_no_record(recording_rig: Rig, content: bytes) -> None:
    recording_rig.add_worker()
    assert recording_rig.http.post("/v1/completions", content=content).status_code in (400, 413)
    recording_rig.post("/v1/completions", **BODY)
    assert only(recording_rig).outcome == "ok"


def test_nobody_there(recording_rig: Rig) -> None:
    body = {**BODY, "stream": True, "service_tier": "priority", "metadata": {"app": "x"}}
    assert recording_rig.post("/v1/completions", **body).status_code == 503
    record = only(recording_rig)
    assert (record.outcome, record.is_rejected) == ("no_worker", True)
    assert (record.scenario, record.tags, record.is_stream) == (Scenario.REALTIME, {"app": "x"}, True)


def test_a_drain_that_ends_before_the_request(running_rig: MakeRig, tmp_path: Path, wait_until: WaitUntil) -> None:
    with running_rig(drain_s=0.2, ledger=LedgerSettings(path=str(tmp_path))) as rig:
        rig.add_worker()
        _, found, close = open_stream(rig)
        rig.gateway.begin_drain()
        wait_until(lambda: rig.gateway.gateway.service.is_draining)
        assert rig.post("/v1/completions", **BODY).status_code == 503
        list(found)
        close()
        rig.gateway.wait()
        cut, refused = sorted(rig.records(2), key=lambda record: record.started_ns)
        for record in (cut, refused):
            check(record)
            assert record.outcome == "draining"
        assert (cut.is_rejected, refused.is_rejected) == (False, True)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_a_reader_that_is_slow_is_told_from_a_slow_worker(
    recording_rig: Rig, wait_until: WaitUntil, is_stream: bool
) -> None:
    """All has long come from the worker when the client begins to read: the rest of the time is `WRITE`.

    A few hundred KB: beyond what a client's own system takes for it, the gateway waits.
    """
    worker = recording_rig.add_worker(window=1 << 16)
    body = {"prompt": PROMPT, "max_tokens": 6000, "stream": is_stream, "ignore_eos": True, "stop_token_ids": []}
    answer = Reader(recording_rig.gateway.url, {**body, "model": "tiny-echo", "logprobs": 3})
    wait_until(lambda: worker.submitted and recording_rig.gateway.num_in_flight == 0)
    wait_until(answer.has_begun)
    for pause_s in (0.1, 0.5):  # held up again after a moment: it is the client that does not take it
        wait_until(lambda: is_held_up(recording_rig))
        time.sleep(pause_s)
    assert recording_rig.records(0) == []
    answer.read()
    record = only(recording_rig)
    assert record.output_tokens == 6000
    assert record.stages_ns[Stage.WRITE] > 0.5e9


def is_held_up(rig: Rig) -> bool:
    """Whether the gateway waits for a client to take what it was sent."""
    return any(line.flow.write_paused for line in list(rig.gateway.gateway._server.server_state.connections))


class Reader:
    """A client with little room of its own, that has asked and does not read yet."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        at, content = urlsplit(url), json.dumps(body).encode()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        self._socket.connect((at.hostname, at.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: close\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    def has_begun(self) -> bool:
        """Whether something has come."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def read(self) -> None:
        """To the end."""
        with self._socket:
            while self._socket.recv(1 << 16):
                pass


def test_many_at_once_leave_one_record_each(recording_rig: Rig) -> None:
    worker = recording_rig.add_worker()
    worker.report = REPORT
    threads = [threading.Thread(target=lambda: recording_rig.post("/v1/completions", **BODY)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = recording_rig.records(40)
    for record in records:
        check(record)
    assert len({record.id for record in records}) == len({record.span_id for record in records}) == 40


def test_without_a_ledger_nothing_is_written(bare_rig: Rig) -> None:
    bare_rig.add_worker()
    assert bare_rig.post("/v1/completions", **BODY).status_code == 200
    assert bare_rig.state is None


@pytest.mark.parametrize("stream", [False, True])
def test_usage_says_what_it_cost(running_rig: MakeRig, tmp_path: Path, stream: bool) -> None:
    cost = CostSettings(currency="EUR", transfer_per_gb=1.0)
    with running_rig(ledger=LedgerSettings(path=str(tmp_path)), cost=cost) as rig:
        rig.add_worker(price_per_hour=3.6).report = REPORT
        body: dict[str, Any] = {"model": "tiny-echo", **BODY, "extra_body": {"usage": {"include": True}}}
        if stream:
            *_, last = rig.openai.completions.create(**body, stream=True)
            usage = last.usage
        else:
            usage = rig.openai.completions.create(**body).usage
        assert usage is not None
        assert usage.model_extra is not None
        assert usage.model_extra["cost"] == pytest.approx(25e-9)  # 25 us of 3.6 an hour
        details = usage.model_extra["cost_details"]
        assert details["currency"] == "EUR"
        assert details["device"] == {"prefill": pytest.approx(15e-9), "decode": pytest.approx(10e-9)}
        [record] = rig.records(1)
        assert record.legs[0].price_per_hour == 3.6


def test_a_cost_that_is_not_known_yet_is_null(recording_rig: Rig) -> None:
    worker = recording_rig.add_worker(price_per_hour=3.6, max_steps=2)
    worker.report = REPORT
    stop = stop_text(recording_rig)
    answer = recording_rig.post("/v1/completions", **BODY, stop=stop, usage={"include": True})
    assert answer.json()["usage"]["cost"] is None
    assert only(recording_rig).legs[0].report == REPORT


def test_usage_says_nothing_of_cost_unasked(bare_rig: Rig) -> None:
    bare_rig.add_worker()
    for usage in (None, {"include": False}):
        assert "cost" not in bare_rig.post("/v1/completions", **BODY, usage=usage).json()["usage"]


def test_a_bug_in_one_record_loses_no_other(
    recording_rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recording_rig.add_worker()
    recorder = recording_rig.gateway.gateway.service.recorder
    make = Recording.record

    def record(recording: Recording, *told: Any) -> Record:
        assert recording.id != "bad"
        return make(recording, *told)

    def keep(records: Sequence[Record]) -> None:
        assert not records, "and a keeper that fails leaves the others theirs"

    monkeypatch.setattr(Recording, "record", record)
    monkeypatch.setattr(recorder, "_keepers", [keep, *recorder._keepers])
    for name in ("bad", "good"):
        recording_rig.http.post("/v1/completions", json=BODY, headers={"x-request-id": name})
    assert only(recording_rig).id == "good"
    assert "the record of request bad could not be made: this is a bug" in caplog.text
    assert "1 records were not kept by all: this is a bug" in caplog.text


def test_every_field_of_a_record_is_what_its_name_says() -> None:
    """It is made in the order of its fields, which a new one must not disturb."""
    recording = Recording("id", "/v1/completions", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", 1_000)
    noted = {
        "scenario": Scenario.REALTIME,
        "answer_id": "answer",
        "is_stream": True,
        "tags": {"a": "b"},
        "num_sequences": 2,
        "prompt_tokens": 3,
        "cached_tokens": {Tier.HOST: 4},
        "output_tokens": 5,
        "finish_reasons": ["stop"],
        "mean_logprob": -0.5,
        "ttft_ns": 6,
        "num_alike": 7,
    }
    for name, value in noted.items():
        setattr(recording, name, value)
    recording.caller = Caller("tenant", "key")
    recording.gaps_us = array("I", [8, 9])
    record = recording.record("gateway", "model", "outcome", 418, 2_000)
    assert {name: getattr(record, name) for name in noted} == noted
    assert (record.id, record.endpoint, record.e2e_ns) == ("id", "/v1/completions", 1_000)
    assert (record.tenant, record.key, record.gateway, record.model) == ("tenant", "key", "gateway", "model")
    assert (record.outcome, record.status, record.version, record.legs) == ("outcome", 418, "", [])
    assert (record.trace_id, record.parent_span_id, len(record.span_id)) == ("a" * 32, "b" * 16, 16)
    assert (record.stages_ns, list(array("I", record.gaps_us))) == ({Stage.RECEIVE: 1_000}, [8, 9])
    assert record.started_ns == recording.started_at_ns
