"""A foreign server behind the real gateway: what a client gets must not show where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers

from tests.foreign_server import ForeignServer, RunningRelay
from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, SequenceOutput

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gateway.conftest import MakeRig, Rig

MODEL = "tiny-echo"
PROMPT = "the quick brown fox"
Join = Callable[..., ForeignServer]


@pytest.fixture
def joined(running_rig: MakeRig) -> Iterator[Rig]:
    """A gateway without workers yet."""
    with running_rig() as rig:
        yield rig


@pytest.fixture
def join(joined: Rig, checkpoint: Path, wait_until: Callable[..., None]) -> Iterator[Join]:
    """Makes a scripted server a member of the pool."""
    ends: list[Callable[[], object]] = []

    def begin(worker_id: str = "w0", **options: Any) -> ForeignServer:
        server = ForeignServer(**options)
        relay = RunningRelay(str(checkpoint), joined.gateway.address, server.url, worker_id)
        ends.extend((relay.begin_drain, relay.wait, server.stop))
        registry = joined.gateway.gateway.dispatcher.workers
        wait_until(lambda: relay.error or ((known := registry.get(worker_id)) is not None and known.load is not None))
        assert relay.error is None
        server.bodies.clear()
        return server

    yield begin
    for end in ends:
        end()


def complete(rig: Rig, **options: Any) -> Any:
    options = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, **options}
    return rig.openai.completions.create(model=MODEL, **options)


def streamed(rig: Rig, **options: Any) -> tuple[str, str, int]:
    """Text, finish reason and counted tokens of a stream."""
    chunks = list(complete(rig, stream=True, stream_options={"include_usage": True}, **options))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return "".join(c.text for c in choices), choices[-1].finish_reason, chunks[-1].usage.completion_tokens


def test_ids_become_text_here(joined: Rig, join: Join, backend: tokenizers.Tokenizer) -> None:
    join()
    ids = backend.encode(PROMPT).ids
    expected = backend.decode([ids[at % len(ids)] + 1 for at in range(8)])
    answer = complete(joined)
    assert answer.choices[0].text == expected
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens == len(ids)
    assert streamed(joined) == (expected, "length", 8)


@pytest.mark.parametrize("counts", [True, False])
def test_text_of_a_server_that_knows_no_ids_is_passed_on_and_counted(joined: Rig, join: Join, counts: bool) -> None:
    join(takes_ids=False, knows=(), counts=counts)
    assert streamed(joined) == ("THE QUIC", "length", 8)
    answer = complete(joined, n=2)
    assert [choice.text for choice in answer.choices] == ["THE QUIC", "THE QUIC"]
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("takes_ids", [True, False])
def test_a_stop_string_ends_the_answer_and_the_servers_work(
    joined: Rig, join: Join, wait_until: Callable[..., None], takes_ids: bool
) -> None:
    server = join(takes_ids=takes_ids)
    whole = complete(joined).choices[0].text
    stop = whole[2:4]
    server.max_events = 7
    assert streamed(joined, max_tokens=100, stop=stop)[:2] == (whole[: whole.index(stop)], "stop")
    shown = complete(joined, max_tokens=100, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert shown.choices[0].text == whole[: whole.index(stop) + len(stop)]
    wait_until(lambda: server.num_open == 0)


def test_chat_goes_there_as_the_template_writes_it(joined: Rig, join: Join) -> None:
    server = join(takes_ids=False)
    message: Any = {"role": "user", "content": "hello"}
    answer = joined.openai.chat.completions.create(model=MODEL, messages=[message], max_tokens=12, temperature=0)
    assert server.bodies[0]["prompt"] == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert answer.choices[0].message.content == "<|IM_START|>"


def test_log_probabilities_come_where_the_server_gives_them_and_are_refused_by_name_where_not(
    joined: Rig, join: Join
) -> None:
    join()
    found = complete(joined, logprobs=1).choices[0].logprobs
    assert found.token_logprobs == [-0.5] * 8


@pytest.mark.parametrize(
    ("options", "param"),
    [({"logprobs": 1}, "logprobs"), ({"extra_body": {"min_p": 0.5}, "temperature": 1}, "min_p")],
)
def test_what_the_server_would_ignore_is_refused_by_name(
    joined: Rig, join: Join, options: dict[str, Any], param: str
) -> None:
    server = join(takes_ids=False, knows=())
    response = joined.post("/v1/completions", prompt=PROMPT, **options.pop("extra_body", {}), **{"top_k": 0, **options})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert server.bodies == []


def test_a_servers_400_is_ours_and_its_429_is_a_503(joined: Rig, join: Join) -> None:
    server = join()
    server.status, server.message = 400, "too long for me"
    response = joined.post("/v1/completions", prompt=PROMPT)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "too long for me")
    server.status, server.message = 429, "slow down"
    response = joined.post("/v1/completions", prompt=PROMPT)
    assert response.status_code == 503
    assert "slow down" in response.json()["error"]["message"]
    assert "retry-after" in response.headers


def test_a_server_that_dies_mid_stream_is_an_error_event_and_a_new_one_serves(
    joined: Rig, join: Join, wait_until: Callable[..., None]
) -> None:
    server = join()
    server.max_events = 1
    with joined.http.stream(
        "POST", "/v1/completions", json={"prompt": PROMPT, "max_tokens": 50, "stream": True}
    ) as response:
        lines = response.iter_lines()
        assert next(lines)
        server.stop()
        assert any('"error"' in line for line in lines)
    server.max_events = None
    server.start()
    wait_until(lambda: joined.post("/v1/completions", prompt=PROMPT, temperature=0).status_code == 200)
    assert joined.gateway.num_in_flight == 0


def test_an_output_of_text_may_be_empty(joined: Rig) -> None:
    worker = joined.add_worker()

    def answer(request: Request) -> Iterator[SequenceOutput]:
        yield SequenceOutput(request.id, text="", text_tokens=1)
        yield SequenceOutput(request.id, text="né", text_tokens=2)
        yield SequenceOutput(request.id, text="", end=End(EndReason.STOP))

    worker.answer = answer
    assert streamed(joined) == ("né", "stop", 3)
