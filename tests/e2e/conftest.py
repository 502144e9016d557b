"""`tokenworks serve` on the embedded model, in processes of its own, for a whole module of tests."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

# vLLM is gigabytes that no run of the tests brings along: who has one names it, see examples/vllm_connector.
collect_ignore = [] if os.environ.get("VLLM_PYTHON") else ["test_vllm_connector.py"]
PATIENCE_S = 300.0  # a bound for a busy machine, not an expectation
PATIENT = ("--lease-s", "60")
"""For a system whose only worker is killed: its gateway waits six leases for the next one, and a start takes a minute
where the machine has too much to do."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until true; fails after a long while."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Served:
    """A running system."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def openai(self) -> OpenAI:
        """The official client, without retries that would hide a failure."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels, read as Prometheus reads them; NaN where there are none."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items()) if samples else math.nan

    def count(self, name: str, **labels: str) -> float:
        """A counter's samples with these labels; 0 where nothing was counted yet."""
        value = self.metric(name, **labels)
        return 0.0 if math.isnan(value) else value

    def worker_pids(self) -> list[int]:
        """Of its workers."""
        return self.pids("worker")

    def pids(self, part: str) -> list[int]:
        """Found as a person would: by `tokenworks` and the part in the command line."""
        own = psutil.Process(self.process.pid).children()
        return [child.pid for child in own if re.search(rf"\btokenworks {part}\b", command_line(child))]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=PATIENCE_S).status_code == 200
        except httpx.TransportError:
            return False


def command_line(process: psutil.Process) -> str:
    """Empty for one that ends at this moment."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start(tmp_path: Path, *options: str) -> Served:
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenworks", "serve", "--port", "0", *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def address() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"serves .+ at (http://\S+)/v1", log.read_text())

    try:
        wait_until(address, f"the address in {log}")
        match = address()
        assert match is not None
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Served(process, match[1], log)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts systems that end with the module, by draining."""
    started: list[Served] = []

    def begin(*options: str) -> Served:
        started.append(start(tmp_path_factory.mktemp("serve"), *options))
        return started[-1]

    yield begin
    for served in started:
        if served.process.poll() is None:
            served.process.send_signal(signal.SIGTERM)
        try:
            assert served.process.wait(PATIENCE_S) == 0, served.log.read_text()
        finally:
            served.process.kill()
            served.process.wait()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve()


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with served.openai() as client:
        yield client


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], object], str], None]:
    return wait_until
