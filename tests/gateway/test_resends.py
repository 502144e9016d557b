"""Workers that die under a request or refuse it: somebody else goes on, and the client sees nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.test_lifetimes import PROMPT, events, open_stream
from tokenworks.contract import wire
from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.gateway.pool import patience
from tokenworks.gateway.pool.flights import MAX_RESENDS

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, WaitUntil

BODY = {"prompt": PROMPT, "max_tokens": 20, "seed": 5}


def text_of(found: list[Any]) -> str:
    """What a stream's events say; it has to have ended well."""
    assert found[-1] == "[DONE]", found
    return "".join(event["choices"][0]["text"] for event in found[:-1])


def undisturbed(rig: Rig, **body: Any) -> Any:
    """The only choice of a whole answer."""
    answer = rig.post("/v1/completions", **{**BODY, **body})
    assert answer.status_code == 200
    return answer.json()["choices"][0]


def start(rig: Rig, **body: Any) -> tuple[threading.Thread, list[Any]]:
    """A whole answer that is asked for, and where it will be."""
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(rig.post("/v1/completions", **{**BODY, **body})))
    asking.start()
    return asking, found


def refuse(request: Request) -> Iterator[SequenceOutput]:
    yield SequenceOutput(request.id, end=End(EndReason.REFUSED, error="this worker is leaving"))


def refuse_this(request: Request) -> Iterator[SequenceOutput]:
    yield SequenceOutput(request.id, end=End(EndReason.REFUSED, error="longer than 8 tokens", param="prompt"))


def test_a_request_that_fits_nobody_is_refused_at_once_and_by_its_parameter(bare_rig: Rig) -> None:
    bare_rig.add_worker("w0").answer = refuse_this
    answer = bare_rig.post("/v1/completions", **BODY)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "longer than 8 tokens",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "invalid_value",
    }


@pytest.mark.parametrize("num_seen", [0, 1, 7])
def test_a_request_whose_worker_dies_goes_on_at_another(bare_rig: Rig, wait_until: WaitUntil, num_seen: int) -> None:
    first = bare_rig.add_worker("w0")
    expected = undisturbed(bare_rig)
    first.max_steps = num_seen
    asking, found = start(bare_rig)
    wait_until(lambda: len(first.submitted) == 2)
    second = bare_rig.add_worker("w1")
    wait_until(lambda: tokens_seen(bare_rig) == num_seen)
    bare_rig.kill(first)
    asking.join()
    assert found[0].json()["choices"][0] == expected
    assert found[0].json()["usage"]["completion_tokens"] == 20
    [again] = second.submitted
    assert again.token_ids == [*PROMPT, *(token + 1 for at, token in enumerate(PROMPT * 10) if at < num_seen)]
    assert again.num_generated == num_seen
    assert again.sampling == first.submitted[1].sampling
    metrics = bare_rig.metrics()
    assert metrics["tokenworks_resends_total", "lost"] == 1
    assert metrics["tokenworks_continuations_total",] == (num_seen > 0)
    assert metrics["tokenworks_workers_lost_total",] == 1


def tokens_seen(rig: Rig) -> int:
    """Tokens that the gateway has noted of the only sequence."""
    [flight] = rig.gateway.gateway.dispatcher._flights.values()
    return len(flight._new_ids)


@pytest.mark.parametrize("how", ["reported", "restarted", "silent", "left"])
def test_a_stream_goes_on_when_the_only_worker_comes_back(
    running_rig: MakeRig, wait_until: WaitUntil, how: str
) -> None:
    with running_rig(lease_s=1.0) as rig:
        worker = rig.add_worker()
        _, found, close = open_stream(rig)
        if how == "silent":
            worker.is_mute = True
            wait_until(lambda: len(rig.gateway.gateway.dispatcher.workers) == 0)
            worker.max_steps = None
            worker.is_mute = False
        elif how == "left":
            worker.is_mute = True
            worker.send(wire.Goodbye("w0"))
            rig.add_worker("w1")
        else:
            rig.kill(worker) if how == "reported" else worker.die()
            rig.add_worker("w0")
        assert text_of([{"choices": [{"text": ""}]}, *found])
        assert rig.worker.submitted[-1].num_generated == 1
        assert rig.gateway.num_in_flight == 0
        close()


@pytest.mark.parametrize("how", ["died", "left"])
def test_who_comes_while_nobody_is_there_waits_for_the_worker_to_come_back(
    bare_rig: Rig, wait_until: WaitUntil, how: str
) -> None:
    worker = bare_rig.add_worker("w0")
    expected = undisturbed(bare_rig)
    if how == "died":
        bare_rig.kill(worker)
    else:
        worker.send(wire.Goodbye("w0"))
    wait_until(lambda: len(bare_rig.gateway.gateway.dispatcher.workers) == 0)
    flights = bare_rig.gateway.gateway.dispatcher._flights
    asking, found = start(bare_rig, n=2)
    wait_until(lambda: len(flights) == 2)
    assert all(flight.worker is None for flight in flights.values())
    bare_rig.add_worker("w0")
    asking.join()
    assert found[0].json()["choices"][0] == expected
    assert bare_rig.gateway.num_in_flight == 0


def test_who_waits_for_a_worker_that_does_not_come_back_is_told(running_rig: MakeRig) -> None:
    with running_rig(lease_s=0.5) as rig:
        rig.kill(rig.add_worker("w0"))
        answers = [rig.post("/v1/completions", **BODY) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert {answer.json()["error"]["code"] for answer in answers} == {"no_worker"}
        assert rig.gateway.num_in_flight == 0


def test_who_is_one_too_many_to_wait_is_told_at_once(
    bare_rig: Rig, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "MAX_NEW", 1)
    bare_rig.kill(bare_rig.add_worker("w0"))
    asking, found = start(bare_rig)
    wait_until(lambda: bare_rig.gateway.num_in_flight == 1)
    assert bare_rig.post("/v1/completions", **BODY).status_code == 503
    bare_rig.add_worker("w0")
    asking.join()
    assert found[0].status_code == 200


def test_log_probabilities_stop_strings_and_choices_go_on_across_the_seam(bare_rig: Rig, wait_until: WaitUntil) -> None:
    body: dict[str, Any] = {"logprobs": 2, "n": 2, "stop": "\u0000never"}
    first = bare_rig.add_worker("w0")
    expected = bare_rig.post("/v1/completions", **{**BODY, **body}).json()["choices"]
    first.max_steps = 3
    asking, found = start(bare_rig, **body)
    flights = bare_rig.gateway.gateway.dispatcher._flights
    wait_until(lambda: len(flights) == 2 and all(len(flight._new_ids) == 3 for flight in flights.values()))
    bare_rig.kill(first)
    bare_rig.add_worker("w1")
    asking.join()
    assert found[0].json()["choices"] == expected
    assert len(expected[0]["logprobs"]["tokens"]) == 20


def test_a_second_loss_is_survived_and_a_third_is_told(bare_rig: Rig, wait_until: WaitUntil) -> None:
    worker = bare_rig.add_worker("w0")
    _, found, close = open_stream(bare_rig)
    for number in range(MAX_RESENDS):
        bare_rig.kill(worker)
        worker = bare_rig.add_worker(f"again{number}", max_steps=1)
        wait_until(lambda last=worker: last.submitted)
    bare_rig.kill(worker)
    bare_rig.add_worker("unasked")
    rest = list(found)
    assert rest[-1]["error"]["code"] == "worker_lost"
    assert worker.worker_id in rest[-1]["error"]["message"]
    assert not bare_rig.worker.submitted
    close()


def test_a_client_that_leaves_while_its_request_waits_is_forgotten(bare_rig: Rig, wait_until: WaitUntil) -> None:
    worker = bare_rig.add_worker("w0")
    _, _, close = open_stream(bare_rig)
    bare_rig.kill(worker)
    wait_until(lambda: len(bare_rig.gateway.gateway.dispatcher.workers) == 0)
    assert bare_rig.gateway.num_in_flight == 1
    close()
    wait_until(lambda: bare_rig.gateway.num_in_flight == 0)
    assert not bare_rig.add_worker("w1").submitted


def test_a_request_that_is_refused_goes_to_another_worker(bare_rig: Rig) -> None:
    leaver, stayer = bare_rig.add_worker("w0"), bare_rig.add_worker("w1")
    leaver.answer = refuse
    assert undisturbed(bare_rig) == undisturbed(bare_rig)
    assert len(leaver.submitted) == len(stayer.submitted) == 2
    assert bare_rig.metrics()["tokenworks_resends_total", "refused"] == 2


def test_who_refused_is_asked_again_after_a_while(running_rig: MakeRig) -> None:
    with running_rig(lease_s=2.0) as rig:
        worker = rig.add_worker()
        usual = worker.answer

        def refuse_once(request: Request) -> Iterator[SequenceOutput]:
            worker.answer = usual
            return refuse(request)

        worker.answer = refuse_once
        assert rig.post("/v1/completions", **BODY).status_code == 200
        assert len(worker.submitted) == 2


def test_a_request_that_all_refuse_ends_as_unavailable(running_rig: MakeRig) -> None:
    with running_rig(lease_s=0.4) as rig:
        rig.add_worker().answer = refuse
        response = rig.post("/v1/completions", **BODY)
        assert response.status_code == 503
        assert "this worker is leaving" in response.json()["error"]["message"]
        assert int(response.headers["retry-after"]) > 0
        assert rig.gateway.num_in_flight == 0


def test_text_without_token_ids_cannot_be_gone_on_with(bare_rig: Rig, wait_until: WaitUntil) -> None:
    foreign = bare_rig.add_worker("foreign", is_foreign=True)
    foreign.answer = lambda request: iter([SequenceOutput(request.id, text="so "), SequenceOutput(request.id)])
    _, found, close = open_stream(bare_rig)
    other = bare_rig.add_worker("w1")
    bare_rig.kill(foreign)
    assert list(found)[-1]["error"]["code"] == "worker_lost"
    assert not other.submitted
    close()


def test_a_continuation_goes_to_an_engine_of_ours(bare_rig: Rig, wait_until: WaitUntil) -> None:
    worker = bare_rig.add_worker("w0")
    _, found, close = open_stream(bare_rig)
    foreign = bare_rig.add_worker("foreign", is_foreign=True)
    bare_rig.kill(worker)
    wait_until(lambda: len(bare_rig.gateway.gateway.dispatcher.workers) == 1)
    own = bare_rig.add_worker("w1")
    assert list(found)[-1] == "[DONE]"
    assert (len(own.submitted), len(foreign.submitted)) == (1, 0)
    close()


def test_a_worker_that_was_given_up_is_not_listened_to(running_rig: MakeRig, wait_until: WaitUntil) -> None:
    with running_rig(lease_s=0.5) as rig:
        silent = rig.add_worker("w0")
        expected = undisturbed(rig)["text"]
        silent.max_steps = 2
        with rig.http.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as response:
            found = events(response)
            first = next(found)
            other = rig.add_worker("w1")
            silent.is_mute = True
            wait_until(lambda: other.submitted)
            silent.max_steps = None
            rest = list(found)
        assert text_of([first, *rest]) == expected
