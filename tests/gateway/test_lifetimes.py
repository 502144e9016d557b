"""Clients that leave, workers that die, come back, fall silent or leave, and a gateway that drains."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import zmq
from openai import APIError

from tokenworks.contract import wire
from tokenworks.contract.kv import block_names, root_name
from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.gateway.pool import patience
from tokenworks.gateway.pool.members import Members

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, WaitUntil


PROMPT = [100, 110]
LONG = {"prompt": PROMPT, "max_tokens": 200, "stream": True}


def events(response: httpx.Response) -> Iterator[Any]:
    """The decoded events of a stream; the last one is the string [DONE] where it ended well."""
    for line in response.iter_lines():
        if line:
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def test_a_client_that_leaves_a_stream_cancels_its_sequences(rig: Rig, wait_until: WaitUntil) -> None:
    rig.worker.max_steps = 3
    with rig.http.stream("POST", "/v1/completions", json={**LONG, "n": 2}) as response:
        next(events(response))
    wait_until(lambda: len(rig.worker.cancelled) == 2)
    assert {request.id for request in rig.worker.submitted} == set(rig.worker.cancelled)
    wait_until(lambda: rig.gateway.num_in_flight == 0)


def test_a_client_that_leaves_a_whole_answer_cancels_its_sequences(rig: Rig, wait_until: WaitUntil) -> None:
    rig.worker.max_steps = 0
    with rig.asking(prompt=PROMPT):
        wait_until(lambda: rig.worker.submitted)
    wait_until(lambda: len(rig.worker.cancelled) == 1)
    assert rig.gateway.num_in_flight == 0


def test_a_worker_that_fails_before_the_first_token_is_a_status(rig: Rig) -> None:
    rig.worker.answer = lambda request: iter(
        [SequenceOutput(request.id, end=End(EndReason.FAILED, error="the kernel said no"))]
    )
    for stream in (False, True):
        response = rig.post("/v1/completions", prompt=PROMPT, stream=stream)
        assert response.status_code == 500
        assert response.json()["error"]["message"] == "the kernel said no"
        assert response.json()["error"]["code"] == "engine_failed"


def test_a_worker_that_fails_later_is_an_error_event_and_no_text(rig: Rig) -> None:
    def answer(request: Request) -> Iterator[SequenceOutput]:
        yield SequenceOutput(request.id, [100])
        yield SequenceOutput(request.id, end=End(EndReason.FAILED, error="the kernel said no"))

    rig.worker.answer = answer
    response, found, close = open_stream(rig)
    rig.worker.max_steps = None
    rest = list(found)
    assert response.status_code == 200
    assert [event["error"]["message"] for event in rest] == ["the kernel said no"]
    close()
    rig.worker.max_steps = 1
    stream = iter(rig.openai.completions.create(model="tiny-echo", prompt=PROMPT, stream=True))
    assert next(stream).choices[0].text
    rig.worker.max_steps = None
    with pytest.raises(APIError, match="the kernel said no"):
        next(stream)


def test_an_unasked_cancellation_is_an_error(rig: Rig) -> None:
    rig.worker.answer = lambda request: iter([SequenceOutput(request.id, end=End(EndReason.CANCELLED))])
    assert rig.post("/v1/completions", prompt=PROMPT).status_code == 500


def test_one_failed_choice_ends_the_request_and_cancels_the_others(rig: Rig, wait_until: WaitUntil) -> None:
    def answer(request: Request) -> Iterator[SequenceOutput]:
        if request.id.endswith("-1"):
            yield SequenceOutput(request.id, end=End(EndReason.FAILED, error="no"))
        yield SequenceOutput(request.id, [100])
        rig.worker.max_steps = 1
        yield SequenceOutput(request.id, [100])

    rig.worker.answer = answer
    rig.worker.max_steps = 1
    assert rig.post("/v1/completions", prompt=PROMPT, n=2).status_code == 500
    wait_until(lambda: len(rig.worker.cancelled) == 1)


def open_stream(rig: Rig) -> tuple[httpx.Response, Iterator[Any], Callable[[], None]]:
    """A stream in which one event has come and more will not."""
    rig.worker.max_steps = 1
    context = rig.http.stream("POST", "/v1/completions", json=LONG)
    response = context.__enter__()
    found = events(response)
    next(found)
    return response, found, lambda: context.__exit__(None, None, None)


@pytest.mark.parametrize("how", ["reported", "silent", "left"])
def test_a_dead_worker_that_does_not_come_back_ends_its_streams_with_an_error_event(
    running_rig: MakeRig, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(patience, "LOST_LEASES", 1)
    with running_rig(lease_s=0.6) as rig:
        worker = rig.add_worker()
        _, found, close = open_stream(rig)
        worker.is_mute = True
        if how == "left":
            worker.send(wire.Goodbye("w0"))
        elif how == "reported":
            rig.kill(worker)
        rest = list(found)
        assert rest[-1]["error"]["code"] == "worker_lost"
        assert "please retry" in rest[-1]["error"]["message"]
        assert rig.gateway.num_in_flight == 0
        close()
        if how == "silent":
            worker.max_steps = None
            worker.is_mute = False
            wait_until(lambda: worker.num_hellos == 2)
        else:
            rig.add_worker("w0")
        rig.worker.max_steps = None
        wait_until(lambda: rig.post("/v1/completions", prompt=PROMPT).status_code == 200)


def test_a_worker_that_dies_before_the_first_token_and_does_not_come_back_is_a_502(
    running_rig: MakeRig, wait_until: WaitUntil
) -> None:
    with running_rig(lease_s=0.3) as rig:
        worker = rig.add_worker()
        worker.max_steps = 0
        found: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: found.append(rig.post("/v1/completions", prompt=PROMPT)))
        asking.start()
        wait_until(lambda: worker.submitted)
        rig.kill(worker)
        asking.join()
        assert found[0].status_code == 502
        assert found[0].json()["error"]["code"] == "worker_lost"


def test_a_worker_whose_line_is_cut_is_found_out_by_the_next_request(
    bare_rig: Rig, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "NEW_LEASES", 0)  # who comes then is told at once

    def status() -> int:
        try:
            return bare_rig.http.post("/v1/completions", json={"prompt": PROMPT}, timeout=1).status_code
        except httpx.ReadTimeout:  # it went out before the cut was noticed
            return 0

    bare_rig.add_worker("w0").die()
    wait_until(lambda: status() == 503)
    assert len(bare_rig.gateway.gateway.dispatcher.workers) == 0
    again, other = bare_rig.add_worker("w0"), bare_rig.add_worker("w1")
    again.die()
    wait_until(lambda: status() == 200)
    assert other.submitted


def test_two_workers_share_the_load_and_a_prefix_draws(bare_rig: Rig, wait_until: WaitUntil) -> None:
    first, second = bare_rig.add_worker("w0"), bare_rig.add_worker("w1")
    first.max_steps = second.max_steps = 0
    with httpx.Client(base_url=bare_rig.gateway.url, timeout=60) as http:
        streams = [
            threading.Thread(target=lambda: http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 1}))
            for _ in range(6)
        ]
        for each in streams:
            each.start()
        wait_until(lambda: len(first.submitted) + len(second.submitted) == 6)
        assert len(first.submitted) == len(second.submitted) == 3
        first.max_steps = second.max_steps = None
        for each in streams:
            each.join()
    prompt = list(range(100, 112))
    names = block_names(root_name("scripted", "anonymous"), prompt, 4)
    second.send(wire.BlocksChanged("w1", [*names, b"other"], [b"other"]))
    known = bare_rig.gateway.gateway.dispatcher.workers
    wait_until(lambda: len(known.get("w1").held_blocks) == 3)
    second.submitted.clear()
    for _ in range(4):
        bare_rig.post("/v1/completions", prompt=[*prompt, 7], max_tokens=1)
    assert len(second.submitted) == 4


def test_a_leaving_worker_finishes_and_gets_nothing_new(bare_rig: Rig, wait_until: WaitUntil) -> None:
    leaver = bare_rig.add_worker("w0")
    _, found, close = open_stream(bare_rig)
    stayer = bare_rig.add_worker("w1")
    leaver.send(wire.Leaving("w0"))
    known = bare_rig.gateway.gateway.dispatcher.workers
    wait_until(lambda: [worker.id for worker in known.ready()] == ["w1"])
    assert bare_rig.post("/v1/completions", prompt=PROMPT).status_code == 200
    assert len(stayer.submitted) == 1
    leaver.max_steps = None
    assert list(found)[-1] == "[DONE]"
    close()


def test_a_gateway_that_does_not_know_a_worker_asks_it_to_say_hello_again(bare_rig: Rig, wait_until: WaitUntil) -> None:
    worker = bare_rig.add_worker()
    known = bare_rig.gateway.gateway.dispatcher.workers
    bare_rig.gateway.call(lambda: known.remove("w0"))
    wait_until(lambda: worker.num_hellos == 2 and len(known) == 1)
    worker.send(wire.StepOutput([SequenceOutput("nobody-waits", [1])]))
    worker.send(wire.Goodbye("never-heard-of"))
    assert bare_rig.post("/v1/completions", prompt=PROMPT).status_code == 200


def test_a_stranger_is_asked_to_rejoin_once(bare_rig: Rig) -> None:
    """A second `Rejoin` would make the worker drop what it was given after the first."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as line:
        line.connect(bare_rig.gateway.address)
        heartbeat = wire.encode(wire.Heartbeat("stranger", wire.Load(0, 0, 0, 0, 0, 0, 0, 0)))
        line.send(wire.encode(wire.StepOutput([])))
        line.send(heartbeat)
        while not line.poll(100):
            line.send(heartbeat)
        assert wire.decode_to_worker(line.recv()) == wire.Rejoin()
        for _ in range(10):
            line.send(heartbeat)
        assert not line.poll(300)


def test_frames_that_do_not_decode_are_counted_and_ignored(bare_rig: Rig, wait_until: WaitUntil) -> None:
    bare_rig.add_worker()
    with zmq.Context() as context, context.socket(zmq.DEALER) as line:
        line.connect(bare_rig.gateway.address)
        for frame in (
            b"",
            b"\x00" * 40,
            b"\xff",
            wire.encode(wire.Heartbeat("w", wire.Load(0, 0, 0, 0, 0, 0, 0, 0)))[:-3],
        ):
            line.send(frame)
        wait_until(lambda: bare_rig.gateway.gateway.dispatcher.counts.bad_frames == 4)
    assert bare_rig.post("/v1/completions", prompt=PROMPT).status_code == 200


def test_a_flood_of_frames_loses_none_and_stops_nobody(bare_rig: Rig) -> None:
    bare_rig.add_worker()
    with zmq.Context() as context, context.socket(zmq.DEALER) as line:
        line.connect(bare_rig.gateway.address)
        for _ in range(3000):
            line.send(wire.encode(wire.StepOutput([])))
        assert bare_rig.post("/v1/completions", prompt=PROMPT).status_code == 200


def test_a_bug_in_handling_one_frame_does_not_stop_the_others(
    bare_rig: Rig, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = bare_rig.add_worker()
    with monkeypatch.context() as patch:
        patch.setattr(bare_rig.gateway.gateway.dispatcher, "_step_output", lambda *frame: 1 // 0)
        worker.send(wire.StepOutput([]))
        wait_until(lambda: "this is a bug" in caplog.text)
    assert bare_rig.post("/v1/completions", prompt=PROMPT).status_code == 200


def test_a_bug_in_one_duty_does_not_keep_those_who_wait_from_being_told(
    running_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Members, "check_leases", lambda members: 1 // 0)
    with running_rig(lease_s=0.3) as rig:
        rig.kill(rig.add_worker())
        assert rig.post("/v1/completions", prompt=PROMPT).json()["error"]["code"] == "no_worker"
        assert "this is a bug" in caplog.text


def test_a_worker_of_another_version_is_refused(
    bare_rig: Rig, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    ScriptedWorker = type(bare_rig.add_worker("right"))
    wrong = ScriptedWorker(bare_rig.gateway.address, "wrong", protocol=wire.PROTOCOL + 1)
    bare_rig.workers.append(wrong)
    wait_until(lambda: any("refused worker wrong" in record.message for record in caplog.records))
    assert [worker.id for worker in bare_rig.gateway.gateway.dispatcher.workers] == ["right"]


def test_the_window_is_the_smallest_of_the_ready_workers(bare_rig: Rig) -> None:
    assert bare_rig.http.get("/v1/models").json()["data"][0]["max_model_len"] == 512
    bare_rig.add_worker("w0", window=128)
    bare_rig.add_worker("w1", window=64)
    assert bare_rig.http.get("/v1/models").json()["data"][0]["max_model_len"] == 64


def test_draining_finishes_what_is_open_and_takes_nothing_new(bare_rig: Rig, wait_until: WaitUntil) -> None:
    worker = bare_rig.add_worker()
    _, found, close = open_stream(bare_rig)
    bare_rig.gateway.begin_drain()
    wait_until(lambda: bare_rig.http.get("/health/ready").json()["reason"] == "draining")
    refused = bare_rig.post("/v1/completions", prompt=PROMPT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    worker.max_steps = None
    assert list(found)[-1] == "[DONE]"
    close()
    bare_rig.gateway.wait()


def test_a_drain_that_takes_too_long_ends_streams_with_an_error_event(
    running_rig: MakeRig, wait_until: WaitUntil
) -> None:
    with running_rig(drain_s=0.2) as rig:
        rig.add_worker()
        _, found, close = open_stream(rig)
        rig.gateway.begin_drain()
        rest = list(found)
        assert rest[-1]["error"]["code"] == "draining"
        close()
        rig.gateway.wait()


def test_a_bug_is_a_500_with_the_request_id_and_a_traceback_in_the_log(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = rig.gateway.gateway.service
    monkeypatch.setattr(service, "window", lambda: 1 // 0)
    response = rig.post("/v1/completions", prompt=PROMPT)
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.json()["error"]["message"]
    assert "ZeroDivisionError" in caplog.text
