"""Wrong requests: each gets a 4xx that says what to do and names the parameter, and the gateway keeps serving."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig, WaitUntil


PROMPT = [100, 110]
PATHS = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]


@pytest.fixture(autouse=True)
def _still_serves(rig: Rig) -> Iterator[None]:
    yield
    answer = rig.post("/v1/completions", prompt=PROMPT, max_tokens=1)
    assert answer.status_code == 200


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error object of an answer, which must be in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"not json", b"[]", b"3", b"null", b'{"prompt": "\xff"}', b'"\xc3"', b"\x00", b'{"prompt": "\\ud800"}'],
)
def test_a_body_that_is_no_json_object(rig: Rig, path: str, body: bytes) -> None:
    error = error_of(rig.http.post(path, content=body))
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_value"


@pytest.mark.parametrize("path", PATHS)
def test_a_body_nested_too_deeply(rig: Rig, path: str) -> None:
    deep = b'{"prompt": ' + b"[" * 100_000
    error_of(rig.http.post(path, content=deep))
    closed = b'{"metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"
    error_of(rig.http.post(path, content=closed))


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"prompt": 3}, "prompt", "int"),
        ({"prompt": {"a": 1}}, "prompt", "object"),
        ({}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [""]}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": ["a", 1]}, "prompt", "mixes"),
        ({"prompt": [1, [2]]}, "prompt", "mixes"),
        ({"prompt": [True]}, "prompt[0]", "bool"),
        ({"prompt": [1.5]}, "prompt[0]", "float"),
        ({"prompt": [99999]}, "prompt", "vocabulary"),
        ({"prompt": [-1]}, "prompt", "vocabulary"),
        ({"prompt": ["a"] * 1025}, "prompt", "at most 1024"),
        ({"prompt": [[1]] * 100, "n": 128}, "n", "2048"),
        ({"prompt": PROMPT, "max_tokens": "5"}, "max_tokens", "str"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens", "from 1"),
        ({"prompt": PROMPT, "max_tokens": 10**30}, "max_tokens", "window is 256"),
        ({"prompt": PROMPT, "temperature": 2.1}, "temperature", "from 0 to 2"),
        ({"prompt": PROMPT, "temperature": -0.1}, "temperature", "from 0 to 2"),
        ({"prompt": PROMPT, "top_p": 0}, "top_p", "above 0 up to 1"),
        ({"prompt": PROMPT, "top_k": -2}, "top_k", "from -1"),
        ({"prompt": PROMPT, "min_p": 1.1}, "min_p", "from 0 to 1"),
        ({"prompt": PROMPT, "presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
        ({"prompt": PROMPT, "frequency_penalty": -3}, "frequency_penalty", "from -2 to 2"),
        ({"prompt": PROMPT, "repetition_penalty": 0}, "repetition_penalty", "above 0"),
        ({"prompt": PROMPT, "seed": 2**80}, "seed", "give a number"),
        ({"prompt": PROMPT, "seed": "x"}, "seed", "str"),
        ({"prompt": PROMPT, "n": 0}, "n", "from 1 to 128"),
        ({"prompt": PROMPT, "n": 129}, "n", "from 1 to 128"),
        ({"prompt": PROMPT, "logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"prompt": PROMPT, "logprobs": True}, "logprobs", "bool"),
        ({"prompt": PROMPT, "stop": ["x"] * 1000}, "stop", "at most 64"),
        ({"prompt": PROMPT, "stop": ["x" * 1025]}, "stop", "1 to 1024"),
        ({"prompt": PROMPT, "stop": ""}, "stop", "1 to 1024"),
        ({"prompt": PROMPT, "stop": [1]}, "stop[0]", "int"),
        ({"prompt": PROMPT, "stop_token_ids": [10**6]}, "stop_token_ids", "vocabulary"),
        ({"prompt": PROMPT, "stop_token_ids": [5] * 1025}, "stop_token_ids", "at most 1024"),
        ({"prompt": PROMPT, "service_tier": "scale"}, "service_tier", "auto, default, flex, priority"),
        ({"prompt": PROMPT, "metadata": {str(key): "" for key in range(17)}}, "metadata", "16"),
        ({"prompt": PROMPT, "metadata": {"a": 1}}, "metadata[...]", "int"),
        ({"prompt": PROMPT, "stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"prompt": PROMPT, "stream": True, "stream_options": {"usage": True}}, "stream_options", "usage"),
        ({"prompt": PROMPT, "best_of": 3}, "best_of", "best_of"),
    ],
)
def test_values_out_of_range_are_told_what_may_be_given(rig: Rig, body: dict[str, Any], param: str, said: str) -> None:
    error = error_of(rig.post("/v1/completions", **body))
    assert error["param"] == param
    assert said in error["message"]
    assert not rig.worker.submitted


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("temprature", 1, "did you mean `temperature`?"),
        ("max_token", 1, "did you mean `max_tokens`?"),
        ("xyzzy", 1, "unknown parameter `xyzzy`"),
        ("echo", True, "`echo` is not supported"),
        ("suffix", "x", "`suffix` is not supported"),
        ("logit_bias", {"1": 2}, "`logit_bias` is not supported"),
        ("min_tokens", 5, "`min_tokens` is not supported"),
        ("guided_json", {"a": 1}, "`guided_json` is not supported"),
    ],
)
def test_an_unsupported_parameter_is_refused_by_name(rig: Rig, name: str, value: object, said: str) -> None:
    error = error_of(rig.post("/v1/completions", prompt=PROMPT, **{name: value}))
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    assert said in error["message"]


def test_a_prompt_beyond_the_window_is_told_both_numbers(rig: Rig) -> None:
    error = error_of(rig.post("/v1/completions", prompt=[100] * 256))
    assert error["code"] == "context_length_exceeded"
    assert "256 tokens" in error["message"]
    assert "255 or fewer" in error["message"]
    assert error["param"] == "prompt"
    talk = [{"role": "user", "content": "word " * 300}]
    assert error_of(rig.post("/v1/chat/completions", messages=talk))["param"] == "messages"
    error = error_of(rig.post("/v1/completions", prompt=[100] * 250, max_tokens=10))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")
    assert all(number in error["message"] for number in ("250", "10", "260", "256", "at most 6"))


def test_output_fills_what_is_left_of_the_window(rig: Rig) -> None:
    answer = rig.post("/v1/completions", prompt=[100] * 250)
    assert answer.json()["usage"]["completion_tokens"] == 6


def test_a_body_of_ten_megabytes_gets_an_answer(rig: Rig) -> None:
    body = json.dumps({"prompt": "x" * (10 << 20)}).encode()
    error = error_of(rig.http.post("/v1/completions", content=body), 413)
    assert error["code"] == "payload_too_large"
    assert str(1 << 20) in error["message"]


def test_a_body_without_end_is_cut_off(rig: Rig) -> None:
    """Chunked, far beyond what is read and dropped: an answer or a closed connection, but no endless reading."""
    host, port = rig.gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with suppress(ConnectionError):  # closed by then
            for _ in range(12):
                connection.sendall(chunk)
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_an_unknown_model_is_a_404_that_names_the_known_one(rig: Rig) -> None:
    with pytest.raises(NotFoundError, match="tiny-echo") as caught:
        rig.openai.completions.create(model="gpt-9", prompt="x")
    assert caught.value.body["code"] == "model_not_found"
    with pytest.raises(NotFoundError):
        rig.openai.models.retrieve("gpt-9")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses"])
def test_endpoints_that_are_not_offered_are_refused_by_name_and_not_asked_again(rig: Rig, path: str) -> None:
    response = rig.post(path, input="x", model="tiny-echo")
    assert f"{path} is not offered" in error_of(response, 501)["message"]
    assert response.headers["x-should-retry"] == "false"


def test_the_bare_address_leads_a_browser_to_the_dashboard_and_tells_a_program_where_things_are(rig: Rig) -> None:
    led = rig.http.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert (led.status_code, led.headers["location"]) == (307, "/dashboard")
    assert "/v1" in error_of(rig.http.get("/"), 404)["message"]


@pytest.mark.parametrize("path", ["/v1", "/v1/audio/speech", "/v1/completions/"])
def test_an_unknown_path_is_a_404_in_openais_form(rig: Rig, path: str) -> None:
    assert error_of(rig.http.post(path, json={}), 404)["code"] == "not_found"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/completions"), ("POST", "/v1/models"), ("PUT", "/tokenize")])
def test_a_wrong_method_is_a_405_that_says_which_are_right(rig: Rig, method: str, path: str) -> None:
    response = rig.http.request(method, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"]


def test_the_official_client_sees_a_bad_request(rig: Rig) -> None:
    with pytest.raises(BadRequestError, match="temperature"):
        rig.openai.completions.create(model="tiny-echo", prompt="x", temperature=9)


def test_a_client_that_hangs_up_while_sending_is_no_error(rig: Rig, wait_until: WaitUntil) -> None:
    host, port = rig.gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    wait_until(lambda: 'outcome="client_gone"' in rig.http.get("/metrics").text)
