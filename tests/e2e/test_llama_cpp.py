"""llama.cpp's own server as a worker: the same text as when it is asked directly, and a member again after its death.

Runs where the wheel `xllamacpp`, which has that server, and `gguf` are installed: in this environment, or in the one
whose interpreter LLAMA_CPP_PYTHON names (`python -m benchmarks.engine install llamacpp` makes one).
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.free_port import free_port
from tokenworks.fleet.launch import EMBEDDED_MODEL

PYTHON = sys.executable if importlib.util.find_spec("xllamacpp") else os.environ.get("LLAMA_CPP_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="xllamacpp is not installed, and LLAMA_CPP_PYTHON not set"),
]

Wait = Callable[[Callable[[], object], str], None]
ROOT = Path(__file__).parents[2]
SERVER = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 2, 1
server = xllamacpp.Server(params)
signal.pause()
"""


class LlamaServer:
    """On one port, which it keeps when it starts again."""

    def __init__(self, model: Path) -> None:
        self.port = free_port()
        self._model = model
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [PYTHON, "-c", SERVER, str(self._model), str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_up(self) -> bool:
        assert self._process.poll() is None
        try:
            return httpx.get(f"{self.url}/models", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, wait_for: Wait) -> Iterator[LlamaServer]:
    model = tmp_path_factory.mktemp("gguf") / "embedded.gguf"
    convert = [PYTHON, "-m", "benchmarks.engine.peers.to_gguf", str(EMBEDDED_MODEL), str(model), "bf16"]
    subprocess.run(convert, cwd=ROOT, check=True)
    server = LlamaServer(model)
    wait_for(server.is_up, "llama.cpp's server")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def relayed(serve: Callable[..., Any], llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = tmp_path_factory.mktemp("relayed") / "tokenworks.toml"
    config.write_text(f'[[workers]]\nruns = "openai"\nurl = "{llama.url}"\n')
    return serve("--config", str(config))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": ["e"], "max_tokens": 40},
        {"temperature": 0.9, "seed": 7, "top_p": 0.9, "extra_body": {"top_k": 30, "min_p": 0.02}},
        {"presence_penalty": 0.4, "frequency_penalty": 0.2},
    ],
    ids=["greedy", "stop string", "sampled", "penalties"],
)
def test_the_text_is_that_of_the_server_asked_directly(
    relayed: Any, llama: LlamaServer, options: dict[str, Any]
) -> None:
    wanted = {"prompt": "Häuser und Bäume: ", "max_tokens": 24, "temperature": 0, "model": "embedded", **options}
    with openai.OpenAI(base_url=llama.url, api_key="none") as directly, relayed.openai() as client:
        theirs = {"repeat_last_n": 2048, "top_k": 0, "min_p": 0.0, **wanted.get("extra_body", {})}  # not its defaults
        direct = directly.completions.create(**{"top_p": 1.0, **wanted, "extra_body": theirs})
        ours = client.completions.create(**wanted)
        chunks = list(client.completions.create(**wanted, stream=True))
    assert ours.choices[0].text == direct.choices[0].text
    assert ours.choices[0].finish_reason == direct.choices[0].finish_reason
    assert ours.usage.completion_tokens == direct.usage.completion_tokens
    assert "".join(chunk.choices[0].text for chunk in chunks) == direct.choices[0].text


def test_chat_is_rendered_here_as_the_checkpoint_says(relayed: Any) -> None:
    messages: Any = [{"role": "user", "content": "What does os.path.join do?"}]
    question: Any = {"model": "embedded", "messages": messages, "max_tokens": 30, "temperature": 0}
    with relayed.openai() as client:
        answer = client.chat.completions.create(**question).choices[0].message.content
        chunks = list(client.chat.completions.create(**question, stream=True))
    assert re.search(r"\w{3}", answer)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer


@pytest.mark.parametrize("name", ["logprobs", "stop_token_ids"])
def test_what_it_would_ignore_is_refused_by_name(relayed: Any, name: str) -> None:
    extra = {"logprobs": {"logprobs": 1}, "stop_token_ids": {"extra_body": {"stop_token_ids": [300]}}}[name]
    with relayed.openai() as client, pytest.raises(openai.BadRequestError, match=f"`{name}`"):
        client.completions.create(model="embedded", prompt="The", max_tokens=2, **extra)


def test_killed_it_ends_its_stream_and_is_a_member_again_when_it_is_back(
    relayed: Any, llama: LlamaServer, wait_for: Wait
) -> None:
    lost = relayed.metric("tokenworks_requests_total", endpoint="/v1/completions", outcome="worker_lost")
    with relayed.openai() as client:
        long: Any = {"model": "embedded", "prompt": "The", "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
        stream = iter(client.completions.create(**long, stream=True))
        next(stream)
        llama.kill()
        with pytest.raises(openai.APIError):
            list(stream)
        wait_for(lambda: not relayed.is_ready(), "the gateway to know")
        llama.start()
        wait_for(relayed.is_ready, "the server to be a member again")
        assert client.completions.create(model="embedded", prompt="The", max_tokens=4).choices[0].text
    after = relayed.metric("tokenworks_requests_total", endpoint="/v1/completions", outcome="worker_lost")
    assert after - (0.0 if math.isnan(lost) else lost) == 1
