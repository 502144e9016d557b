"""Prompts that one worker computes for another: who is sent what, and that nothing on the way can fail a request.

A token of a prompt takes 10 ms by every card here, so that 100 of them are long; blocks are of four tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway.test_resends import refuse
from tokenworks.contract import wire
from tokenworks.contract.kv import Tier, block_names, root_name
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import End, EndReason, Role, SequenceOutput, TierStatus

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, ScriptedWorker, WaitUntil

LONG = [100 + number % 50 for number in range(102)]
BODY: dict[str, Any] = {"prompt": LONG, "max_tokens": 6}


def pair(rig: Rig, role: Role = Role.DECODE) -> tuple[ScriptedWorker, ScriptedWorker]:
    """A prefill worker, another one, and a store between them."""
    rig.add_store(host=TierStatus(limit_bytes=1 << 20, read_bytes_per_s=1e9))
    options = {"has_store": True, "prefill_s": 0.01}
    return rig.add_worker("p", role=Role.PREFILL, **options), rig.add_worker("d", role=role, **options)


def ask(rig: Rig, **body: Any) -> Any:
    answer = rig.post("/v1/completions", **{**BODY, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(worker: ScriptedWorker) -> list[str]:
    return [request.id for request in worker.submitted]


def test_a_long_prompt_is_computed_and_published_first(bare_rig: Rig) -> None:
    prefill, decode = pair(bare_rig)
    answer = ask(bare_rig)
    [first], [plain] = prefill.submitted, decode.submitted
    assert first.token_ids == LONG[:100]
    assert first.sampling == Sampling(max_tokens=1, temperature=0)
    assert (first.id, first.salt, first.tenant) == (f"{plain.id}.prefill", plain.salt, plain.tenant)
    assert prefill.published == [first.id]
    assert decode.published == []
    assert plain.token_ids == LONG
    assert answer["usage"]["completion_tokens"] == plain.sampling.max_tokens == 6
    assert bare_rig.gateway.num_in_flight == 0


def found(cached: int, host: int = 0) -> Any:
    """An answer of one token, for which so much of the prompt was not computed, part of it out of the store."""
    fetched = {Tier.HOST: host} if host else None

    def answer(request: Request) -> Iterator[SequenceOutput]:
        yield SequenceOutput(request.id, [7], cached_tokens=cached, end=End(EndReason.LENGTH), fetched_tokens=fetched)

    return answer


@pytest.mark.parametrize(
    ("kept", "device", "host", "told"),
    [
        (0, 0, 100, {"device": 0}),
        (60, 0, 100, {"device": 0, "host": 60}),
        (60, 20, 80, {"device": 20, "host": 40}),
        (100, 0, 100, {"device": 0, "host": 100}),
        (0, 100, 0, {"device": 0}),
        (0, 0, 40, {"device": 0}),
    ],
    ids=["nothing kept", "some kept", "some on the second's device", "all kept", "all computed twice", "some late"],
)
def test_what_was_computed_for_this_very_request_is_not_cached(
    bare_rig: Rig, kept: int, device: int, host: int, told: dict[str, int]
) -> None:
    prefill, decode = pair(bare_rig)
    prefill.answer, decode.answer = found(kept), found(device + host, host)
    details = ask(bare_rig)["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": sum(told.values()), "cached_tokens_by_tier": told}
    assert len(prefill.submitted) == 1


def test_a_short_prompt_and_one_that_is_held_go_straight(bare_rig: Rig, wait_until: WaitUntil) -> None:
    prefill, decode = pair(bare_rig)
    ask(bare_rig, prompt=LONG[:20])
    decode.send(wire.BlocksChanged("d", block_names(root_name("scripted", "anonymous"), LONG, 4), []))
    known = bare_rig.gateway.gateway.dispatcher.workers
    wait_until(lambda: known.get("d").held_blocks)
    ask(bare_rig)
    assert (len(prefill.submitted), len(decode.submitted)) == (0, 2)
    assert bare_rig.metrics()["tokenworks_placements_total", "short prompt", "direct"] == 2


def test_several_choices_of_one_prompt_go_straight(bare_rig: Rig) -> None:
    prefill, decode = pair(bare_rig)
    ask(bare_rig, n=2)
    assert (len(prefill.submitted), len(decode.submitted)) == (0, 2)
    ask(bare_rig, prompt=[LONG, LONG[1:]])  # the second one would wait for the first one's prompt
    assert (len(prefill.submitted), len(decode.submitted)) == (1, 4)


def test_what_was_predicted_stands_beside_what_it_took(bare_rig: Rig) -> None:
    pair(bare_rig)
    ask(bare_rig)
    ask(bare_rig, prompt=LONG[:20])
    metrics = bare_rig.metrics()
    assert metrics["tokenworks_placements_total", "spares decoders", "split"] == 1
    assert metrics["tokenworks_predicted_ttft_seconds_total", "split"] == pytest.approx(1.0 + 0.01 + 0.02, abs=1e-3)
    assert metrics["tokenworks_predicted_ttft_seconds_total", "direct"] == pytest.approx(0.2)
    for way in ("split", "direct"):
        assert metrics["tokenworks_predicted_first_tokens_total", way] == 1
        assert metrics["tokenworks_predicted_ttft_actual_seconds_total", way] > 0


def fail(request: Request) -> Iterator[SequenceOutput]:
    yield SequenceOutput(request.id, end=End(EndReason.FAILED, error="the kernel said no"))


@pytest.mark.parametrize("answer", [fail, refuse])
def test_a_first_half_that_does_not_succeed_fails_nothing(bare_rig: Rig, answer: Any) -> None:
    prefill, decode = pair(bare_rig)
    prefill.answer = answer
    ask(bare_rig)
    assert len(prefill.submitted) == len(decode.submitted) == 1


@pytest.mark.parametrize("dies", [True, False])
def test_a_prefill_worker_that_goes_is_not_waited_for(bare_rig: Rig, wait_until: WaitUntil, dies: bool) -> None:
    prefill, decode = pair(bare_rig)
    prefill.max_steps = 0
    asking = threading.Thread(target=lambda: ask(bare_rig))
    asking.start()
    wait_until(lambda: prefill.submitted)
    assert not decode.submitted
    bare_rig.kill(prefill) if dies else prefill.send(wire.Goodbye("p"))
    asking.join()
    assert len(decode.submitted) == 1
    assert ("tokenworks_resends_total", "lost") not in bare_rig.metrics()


def test_a_decode_worker_that_dies_leaves_the_request_to_whoever_is_there(bare_rig: Rig, wait_until: WaitUntil) -> None:
    prefill, decode = pair(bare_rig)
    decode.max_steps = 2
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(ask(bare_rig)))
    asking.start()
    wait_until(lambda: decode.submitted)
    bare_rig.kill(decode)
    asking.join()
    assert found[0]["usage"]["completion_tokens"] == 6
    assert len(prefill.submitted) == 2
    assert prefill.submitted[1].id == decode.submitted[0].id


def test_a_client_that_leaves_cancels_whichever_half_runs(bare_rig: Rig, wait_until: WaitUntil) -> None:
    prefill, decode = pair(bare_rig)
    for half in (prefill, decode):
        half.max_steps, asked = 0, len(half.submitted)
        with bare_rig.asking(**BODY):
            wait_until(lambda worker=half, before=asked: len(worker.submitted) > before)
        wait_until(lambda worker=half: worker.cancelled)
        assert half.cancelled == ids(half)[-1:]
        wait_until(lambda: bare_rig.gateway.num_in_flight == 0)
        half.max_steps = None
    assert len(decode.submitted) == 1


def test_without_a_store_that_is_alive_nothing_is_split(running_rig: MakeRig, wait_until: WaitUntil) -> None:
    with running_rig(lease_s=1.0) as rig:
        prefill, decode = pair(rig)
        wait_until(lambda: len(rig.gateway.gateway.dispatcher.stores) == 0)
        ask(rig)
        assert (len(prefill.submitted), len(decode.submitted)) == (0, 1)
        assert rig.metrics()["tokenworks_placements_total", "no partner", "direct"] == 1


def test_only_prefill_workers_left_serve(bare_rig: Rig) -> None:
    prefill, decode = pair(bare_rig)
    bare_rig.kill(decode)
    ask(bare_rig)
    assert prefill.submitted[-1].token_ids == LONG


def test_a_role_changes_while_it_runs(bare_rig: Rig) -> None:
    prefill, decode = pair(bare_rig)
    assert bare_rig.http.put("/admin/workers/p", json={"role": "decode"}).status_code == 200
    ask(bare_rig)
    assert [request.token_ids for request in prefill.submitted + decode.submitted] == [LONG]
    bare_rig.http.put("/admin/workers/p", json={"role": "decode"})
    bare_rig.http.put("/admin/workers/d", json={"role": "prefill"})
    prefill.submitted.clear()
    decode.submitted.clear()
    ask(bare_rig)
    assert decode.published == ids(decode)
    assert [request.token_ids for request in prefill.submitted] == [LONG]
