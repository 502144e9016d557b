"""Another Tokenworks behind a relay: the same text as when it is asked directly, and no stream that hangs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tokenworks.fleet.launch import EMBEDDED_MODEL

pytestmark = pytest.mark.slow

Wait = Callable[[Callable[[], object], str], None]
RELAY = """
import logging, sys
from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.worker.relay import run_relay
logging.basicConfig(level="INFO")
model, url, address = sys.argv[1:]
run_relay(Settings(model=model), WorkerGroup(runs="openai", url=url), "relay", [address])
"""
PROMPTS = ["The with statement", "def main(", "Häuser und Bäume: "]


@dataclass
class Relayed:
    """A gateway whose only worker is a relay."""

    url: str
    gateway: subprocess.Popen[bytes]
    relay: subprocess.Popen[bytes]
    log: Path

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def is_ready(self) -> bool:
        assert self.relay.poll() is None, self.log.read_text()
        return httpx.get(f"{self.url}/health/ready", timeout=60).status_code == 200

    def stop(self) -> None:
        for process in (self.relay, self.gateway):
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(60) == 0, self.log.read_text()
            finally:
                process.kill()


@pytest.fixture(scope="module")
def relay_to(tmp_path_factory: pytest.TempPathFactory, wait_for: Wait) -> Iterator[Callable[..., Relayed]]:
    """Puts a gateway and a relay in front of a server."""
    running: list[Relayed] = []

    def begin(upstream: str, *options: str) -> Relayed:
        folder = tmp_path_factory.mktemp("relay")
        address, log = f"ipc://{folder}/workers", folder / "log"
        command = [sys.executable, "-m", "tokenworks", "gateway", "--port", "0", "--worker-address", address, *options]
        with log.open("wb") as file:
            gateway = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            relay = subprocess.Popen(
                [sys.executable, "-c", RELAY, str(EMBEDDED_MODEL), f"{upstream}/v1", address],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: re.search(r"listens on (http://\S+),", log.read_text()), f"the address in {log}")
        match = re.search(r"listens on (http://\S+),", log.read_text())
        assert match is not None
        running.append(Relayed(match[1], gateway, relay, log))
        wait_for(running[-1].is_ready, "the relay")
        return running[-1]

    yield begin
    for relayed in running:
        relayed.stop()


@pytest.fixture(scope="module")
def relayed(relay_to: Callable[..., Relayed], served: Any) -> Relayed:
    return relay_to(served.url)


def complete(client: openai.OpenAI, prompt: Any, **options: Any) -> Any:
    options = {"max_tokens": 24, "temperature": 0, **options}
    return client.completions.create(model="embedded", prompt=prompt, **options)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"extra_body": {"ignore_eos": True}, "max_tokens": 60},
        {"stop": ["e"]},
        {"temperature": 0.9, "seed": 7, "top_p": 0.9, "extra_body": {"top_k": 30, "repetition_penalty": 1.1}},
        {"temperature": 1.2, "seed": -1, "presence_penalty": 0.4, "extra_body": {"min_p": 0.02}},
        {"extra_body": {"stop_token_ids": [300, 400, 500]}},
    ],
    ids=["greedy", "beyond the end", "stop string", "sampled", "sampled with penalties", "stop tokens"],
)
def test_the_text_is_that_of_the_server_asked_directly(
    client: openai.OpenAI, relayed: Relayed, prompt: str, options: dict[str, Any]
) -> None:
    direct = complete(client, prompt, **options)
    with relayed.openai() as there:
        answer = complete(there, prompt, **options)
        chunks = list(complete(there, prompt, stream=True, **options))
    assert answer.choices[0].text == direct.choices[0].text
    assert answer.choices[0].finish_reason == direct.choices[0].finish_reason
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        direct.usage.prompt_tokens,
        direct.usage.completion_tokens,
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == direct.choices[0].text


def test_several_choices_and_chat(client: openai.OpenAI, relayed: Relayed) -> None:
    messages: Any = [{"role": "user", "content": "What does os.path.join do?"}]
    question: Any = {"model": "embedded", "messages": messages, "max_tokens": 30, "temperature": 0}
    with relayed.openai() as there:
        ours, theirs = (each.chat.completions.create(**question) for each in (there, client))
        assert ours.choices[0].message.content == theirs.choices[0].message.content
        answer = complete(there, PROMPTS[0], n=2, temperature=1.0, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text != answer.choices[1].text
    assert answer.usage.completion_tokens == 48 or "stop" in {choice.finish_reason for choice in answer.choices}


def test_a_client_that_leaves_frees_the_sequences_over_there(relayed: Relayed, served: Any, wait_for: Wait) -> None:
    body = {"model": "embedded", "prompt": "The", "max_tokens": 1900, "ignore_eos": True, "stream": True, "n": 16}
    with httpx.stream("POST", f"{relayed.url}/v1/completions", json=body, timeout=120) as response:
        assert "error" not in next(response.iter_lines())
    wait_for(lambda: served.metric("tokenworks_sequences_in_flight") == 0, "the server to notice")
    assert served.metric("tokenworks_requests_total", outcome="client_gone") > 0


@contextmanager
def standing_still(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_server_that_is_killed_ends_its_streams_and_is_a_member_again_when_it_is_back(
    relay_to: Callable[..., Relayed], served: Any, wait_for: Wait
) -> None:
    """It is the gateway over there that is killed, and its supervisor held until it may start another."""
    relayed = relay_to(served.url, "--lease-s", "4")  # who asks while nobody is there is kept for one and a half
    [gateway] = served.pids("gateway")
    with relayed.openai() as client:
        stream = iter(complete(client, "The", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}))
        next(stream)
        with standing_still(served.process):
            os.kill(gateway, signal.SIGKILL)
            with pytest.raises(openai.APIError):
                list(stream)
            wait_for(lambda: not relayed.is_ready(), "the gateway to know")
            with pytest.raises(openai.InternalServerError, match="no worker is ready"):
                complete(client, "The")
        wait_for(relayed.is_ready, "the server's return")
        with served.openai() as direct:
            assert complete(client, PROMPTS[0]).choices[0].text == complete(direct, PROMPTS[0]).choices[0].text
