"""What goes wrong in a running system stays small: no stream hangs, nothing leaks, new requests succeed."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

pytestmark = pytest.mark.slow

LONG: dict[str, Any] = {"model": "embedded", "prompt": "The", "max_tokens": 1500, "extra_body": {"ignore_eos": True}}
Wait = Callable[[Callable[[], object], str], None]


def num_busy(served: Any) -> float:
    """Sequences that the workers say they have, and blocks that these hold."""
    names = ("tokenworks_worker_running", "tokenworks_worker_waiting", "tokenworks_worker_kv_blocks_used")
    return float(sum(served.metric(name) for name in names))


def ending_of(stream: Any) -> str:
    try:
        return str(list(stream)[-1].choices[0].finish_reason)
    except openai.APIError as error:
        return error.message


def test_a_killed_worker_ends_every_open_stream_with_an_error_and_comes_back(served: Any, wait_for: Wait) -> None:
    client = served.openai()
    streams = [client.completions.create(**LONG, stream=True) for _ in range(4)]
    for stream in streams:
        next(iter(stream))
    [pid] = served.worker_pids()
    os.kill(pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(openai.APIError, match="worker w0 died"):
            list(stream)
    wait_for(lambda: served.worker_pids() not in ([], [pid]) and served.is_ready(), "the worker's return")
    answer = client.completions.create(**{**LONG, "max_tokens": 20})
    assert answer.usage.completion_tokens == 20
    wait_for(lambda: num_busy(served) == 0, "an idle worker")
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize("is_streaming", [True, False])
def test_a_client_that_goes_away_frees_its_sequence(served: Any, wait_for: Wait, is_streaming: bool) -> None:
    body = {"model": "embedded", "prompt": "The", "max_tokens": 1900, "ignore_eos": True, "stream": is_streaming}
    url = httpx.URL(f"{served.url}/v1/completions")
    with socket.create_connection((url.host, url.port)) as connection:
        content = json.dumps(body).encode()
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        wait_for(lambda: num_busy(served) > 0, "the sequence to show")
        assert served.metric("tokenworks_sequences_in_flight") == 1
    wait_for(lambda: served.metric("tokenworks_sequences_in_flight") == 0, "the gateway to notice")
    wait_for(lambda: num_busy(served) == 0, "the cancelled sequence to end")


def test_a_stop_string_frees_its_sequence(served: Any, wait_for: Wait) -> None:
    answer = served.openai().completions.create(**{**LONG, "stop": ["e"]})
    assert answer.choices[0].finish_reason == "stop"
    wait_for(lambda: num_busy(served) == 0, "the stopped sequence to end")


def test_with_two_workers_one_may_die_and_the_other_serves(serve: Any, wait_for: Wait) -> None:
    served = serve("--workers", "2", "--kv-bytes", "16MiB")
    client = served.openai()
    wait_for(lambda: len(httpx.get(f"{served.url}/health/ready").json()["workers"]) == 2, "both workers")
    pids = served.worker_pids()
    assert len(pids) == 2
    streams = [client.completions.create(**{**LONG, "prompt": f"{i} The"}, stream=True) for i in range(6)]
    for stream in streams:
        next(iter(stream))
    os.kill(pids[0], signal.SIGKILL)
    endings = [ending_of(stream) for stream in streams]
    assert endings.count("length") == 3
    assert sum("died" in ending for ending in endings) == 3
    assert client.completions.create(**{**LONG, "max_tokens": 5}).usage.completion_tokens == 5
