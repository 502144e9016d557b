"""`tokenworks serve` with its real gateway and worker on the embedded model: killed parts come back, a stop drains.

One start serves several tests' worth of questions, because each start loads a model.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import tokenworks

pytestmark = pytest.mark.slow

Fleet = Any  # conftest's RunningCommand; conftest is no module to import from
Run = Callable[..., Fleet]
SERVE = [sys.executable, "-m", "tokenworks", "serve"]
EMBEDDED = Path(tokenworks.__file__).parent / "embedded"


def address_of(fleet: Fleet) -> str:
    url = str(fleet.wait_for(r"serves .* at (http://\S+)/v1$")[1])
    fleet.wait_for("Stop with Ctrl-C")
    return url


def children(pid: int) -> list[tuple[int, str]]:
    """Process ids of what `pid` started, and what their command lines say they are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid and "tokenworks" in words:
            found.append((int(process.name), words[words.index("tokenworks") + 1]))
    return found


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while any(_command_line(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _command_line(pid: int) -> bytes:
    """Empty for a zombie, as for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def complete(url: str, num_tokens: int) -> int:
    """Ask for so many tokens; the number that came."""
    body = {"model": "embedded", "prompt": "The", "max_tokens": num_tokens, "ignore_eos": True}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["completion_tokens"])


def test_it_serves_restarts_a_killed_worker_and_drains_an_open_stream(run_command: Run) -> None:
    fleet = run_command([*SERVE, "--port", "0"])
    url = address_of(fleet)
    pids = {part: pid for pid, part in children(fleet.process.pid)}
    assert set(pids) == {"gateway", "worker", "observer"}
    assert complete(url, 5) == 5

    os.kill(pids["worker"], signal.SIGKILL)
    fleet.wait_for("w0 was killed by signal 9")
    fleet.wait_for("w0 is back")
    assert complete(url, 5) == 5
    assert (pids["gateway"], "gateway") in children(fleet.process.pid)

    body = {"model": "embedded", "prompt": "The", "max_tokens": 300, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as stream:
        lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
        next(lines)
        fleet.send(signal.SIGTERM)
        *_, last, done = list(lines)
    assert done == "[DONE]"
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert fleet.wait() == 0


def test_unlike_workers_serve_one_pool_and_none_outlives_a_supervisor_that_is_killed(
    run_command: Run, tmp_path: Path
) -> None:
    config = tmp_path / "tokenworks.toml"
    config.write_text('[engine]\nthreads = 1\n[[workers]]\ndtype = "float32"\n[[workers]]\nquantize = "int8"\n')
    fleet = run_command([*SERVE, "--config", str(config), "--port", "0"])
    url = address_of(fleet)
    deadline = time.monotonic() + 120
    while sorted(httpx.get(f"{url}/health/ready", timeout=120).json()["workers"]) != ["w0", "w1"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    fleet.wait_for(r"\[w0\] .*weights: .*float32")
    fleet.wait_for(r"\[w1\] .*weights: .*int8")
    assert complete(url, 5) == 5
    pids = [pid for pid, _ in children(fleet.process.pid)]
    assert len(pids) == 4
    fleet.send(signal.SIGKILL)
    wait_until_gone(pids)


def test_a_checkpoint_that_is_damaged_ends_serve_with_the_reason_and_diagnose_knows_it(
    run_command: Run, tmp_path: Path
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    fleet = run_command([*SERVE, str(tmp_path / "damaged"), "--port", "0", "--ledger-path", str(tmp_path / "ledger")])
    assert fleet.wait() == 3
    assert f"w0 could not start (it exited with code 3): {weights}" in fleet.text
    assert "Traceback" not in fleet.text
    command = [sys.executable, "-m", "tokenworks", "diagnose", "--ledger-path", str(tmp_path / "ledger")]
    diagnosis = run_command([*command, "--json"])
    assert diagnosis.wait() == 0
    told = json.loads(diagnosis.text)
    assert [finding["rule"] for finding in told["findings"]] == ["worker_cannot_start"]
    [incident] = [each for each in told["incidents"] if each["kind"] == "worker_not_started"]
    assert incident["subject"] == "w0"
    assert incident["text"].startswith(f"exited with code 3: {weights}")
