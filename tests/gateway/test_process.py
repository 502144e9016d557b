"""The gateway as a process of its own: signals and addresses that are taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig, WaitUntil

SERVE = """
import sys
from tokenworks.contract.config import GatewaySettings, LedgerSettings, Settings
from tokenworks.gateway.process import run_gateway
run_gateway(
    Settings(
        model=sys.argv[1],
        gateway=GatewaySettings(port=int(sys.argv[2]), worker_address=sys.argv[3], lease_s=1.0),
        ledger=LedgerSettings(path="off"),
    ),
    on_ready=lambda host, port: print(port, flush=True),
)
"""


def start(checkpoint: Path, port: int = 0, address: str = "tcp://127.0.0.1:*") -> subprocess.Popen[str]:
    """The gateway as a process of its own."""
    command = [sys.executable, "-c", SERVE, str(checkpoint), str(port), address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_until_a_signal_and_exits_with_0(checkpoint: Path, number: signal.Signals) -> None:
    with start(checkpoint) as process:
        port = int(process.stdout.readline())
        assert httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=60).json()["pid"] == process.pid
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_a_busy_port_says_what_to_do(checkpoint: Path, rig: Rig) -> None:
    busy = int(rig.gateway.url.rsplit(":", 1)[1])
    with start(checkpoint, busy) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{busy}" in errors
    assert "--port" in errors


def test_a_busy_worker_address_says_what_to_do(checkpoint: Path, rig: Rig) -> None:
    with start(checkpoint, 0, rig.gateway.address) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "gateway.worker_address" in errors


def test_a_gateway_that_was_stopped_takes_nobody_for_dead(
    checkpoint: Path, rig: Rig, wait_until: WaitUntil, tmp_path: Path
) -> None:
    """What a worker said meanwhile was not heard in time, and that is not the worker's fault."""
    address = f"ipc://{tmp_path}/workers"
    with start(checkpoint, address=address) as process:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        worker = type(rig.worker)(address, "w0")
        wait_until(lambda: httpx.get(f"{url}/health/ready", timeout=60).status_code == 200)
        for _ in range(3):  # whether it looks before it hears is a matter of chance
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(1.3)  # longer than its lease
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.5)  # two looks
        metrics = httpx.get(f"{url}/metrics", timeout=60).text
        process.kill()
        process.communicate()
        worker.die()
    assert "tokenworks_workers_lost_total 0.0" in metrics
    assert worker.num_hellos == 1
