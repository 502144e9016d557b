"""What is said to a foreign server, and what is refused because it would not be heard."""

from __future__ import annotations

from typing import Any

import pytest

from tokenworks.contract.request import Request, Sampling
from tokenworks.worker.relay.dialect import OFF, Dialect, completion_body
from tokenworks.worker.relay.upstream import UpstreamRefusal

EVERYTHING = frozenset(
    {
        *OFF,
        "seed",
        "ignore_eos",
        "stop_token_ids",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "add_special_tokens",
        "cache_salt",
    }
)
ALL = Dialect("m", honours=EVERYTHING, eos_token_ids=(2,))
NOTHING = Dialect("m", eos_token_ids=(2,))
CHANCE = Sampling(
    max_tokens=9,
    temperature=0.5,
    top_p=0.9,
    top_k=7,
    min_p=0.1,
    presence_penalty=0.2,
    frequency_penalty=0.3,
    repetition_penalty=1.2,
    seed=1 << 60,
    stop_token_ids=(2,),
)


def body(dialect: Dialect, sampling: Sampling, salt: str = "") -> dict[str, Any]:
    return completion_body(Request("r", "m", [5, 6], sampling, salt=salt), [5, 6], dialect)


def test_everything_that_is_honoured_is_said() -> None:
    found = body(ALL, CHANCE, salt="tenant")
    wanted = {name: getattr(CHANCE, name) for name in (*OFF, "seed", "max_tokens", "temperature")}
    assert found == {
        **wanted,
        "model": "m",
        "prompt": [5, 6],
        "stream": True,
        "ignore_eos": False,
        "stop_token_ids": [2],
        "return_token_ids": True,
        "add_special_tokens": False,
        "cache_salt": "tenant",
    }


def test_what_is_off_is_said_too_since_servers_have_defaults_of_their_own() -> None:
    found = body(ALL, Sampling(max_tokens=9, temperature=0.5, stop_token_ids=(2,)))
    assert {name: found[name] for name in OFF} == dict(OFF)


def test_a_greedy_request_says_nothing_of_chance() -> None:
    found = body(ALL, Sampling(max_tokens=9, temperature=0.0, top_p=0.5, top_k=3, min_p=0.2, stop_token_ids=(2,)))
    assert (found["top_p"], found["top_k"], found["min_p"]) == (1.0, -1, 0.0)
    body(NOTHING, Sampling(max_tokens=9, temperature=0.0, top_p=0.5, top_k=3, min_p=0.2, stop_token_ids=(2,)))


def test_to_a_server_that_honours_nothing_only_the_basics_are_said() -> None:
    found = body(NOTHING, Sampling(max_tokens=9, temperature=0.5, seed=5, stop_token_ids=(2,)), salt="tenant")
    assert set(found) == {"model", "prompt", "max_tokens", "temperature", "stream"}


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        *((name, {name: getattr(CHANCE, name)}) for name in OFF),
        ("ignore_eos", {"stop_token_ids": ()}),
        ("stop_token_ids", {"stop_token_ids": (2, 5)}),
        ("logprobs", {"num_logprobs": 0}),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(name: str, sampling: dict[str, Any]) -> None:
    wanted = Sampling(**{"max_tokens": 9, "temperature": 0.5, "stop_token_ids": (2,), **sampling})
    body(ALL, wanted)
    with pytest.raises(UpstreamRefusal, match=f"`{name}`") as refused:
        body(NOTHING, wanted)
    assert refused.value.param == name


def test_a_continuation_asks_for_the_rest_and_cannot_penalise_what_was_written_before() -> None:
    sampling = Sampling(max_tokens=9, repetition_penalty=1.2, stop_token_ids=(2,))
    request = Request("r", "m", [5, 6, 7], sampling, num_generated=2)
    assert completion_body(request, [5, 6, 7], ALL)["max_tokens"] == 7
    penalised = Sampling(max_tokens=9, presence_penalty=0.5, stop_token_ids=(2,))
    with pytest.raises(UpstreamRefusal, match="presence_penalty"):
        completion_body(Request("r", "m", [5, 6, 7], penalised, num_generated=2), [5, 6, 7], ALL)


def test_stop_tokens_need_no_parameter_where_ids_come_back() -> None:
    dialect = Dialect("m", honours=frozenset({"return_token_ids"}), eos_token_ids=(2,))
    assert "stop_token_ids" not in body(dialect, Sampling(max_tokens=9, stop_token_ids=(2, 5)))


def test_a_parameter_goes_under_the_servers_name_for_it() -> None:
    dialect = Dialect(
        "m",
        honours=frozenset({"repetition_penalty"}),
        names={"repetition_penalty": "repeat_penalty"},
        always={"repeat_last_n": -1},
    )
    found = body(dialect, Sampling(max_tokens=9, repetition_penalty=1.3))
    assert found["repeat_penalty"] == 1.3
    assert found["repeat_last_n"] == -1
    assert "repetition_penalty" not in found


def test_log_probabilities_are_asked_for_by_id() -> None:
    found = body(ALL, Sampling(max_tokens=9, num_logprobs=3, stop_token_ids=(2,)))
    assert (found["logprobs"], found["return_tokens_as_token_ids"]) == (3, True)
