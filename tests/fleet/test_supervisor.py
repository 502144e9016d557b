"""The supervisor with real processes: what dies comes back, what cannot start says so, what stops drains."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fleet = Any  # conftest's RunningCommand; conftest is no module to import from
Start = Callable[..., Fleet]


def wait_until_gone(*pids: int) -> None:
    """Wait until none of the processes runs; a zombie does not run."""
    deadline = time.monotonic() + 120
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between being found and being read
        return False


def test_it_prints_the_address_a_command_to_paste_and_how_to_stop(serving: Fleet) -> None:
    port = int(serving.wait_for(r"serves stand-in at http://127\.0\.0\.1:(\d+)/v1$")[1])
    serving.wait_for(rf"^  curl http://127\.0\.0\.1:{port}/v1/chat/completions")
    serving.wait_for('"model": "stand-in"')
    serving.wait_for("waiting for gateway, w0")


def test_a_killed_worker_comes_back_and_the_gateway_is_told_at_once(serving: Fleet) -> None:
    os.kill(serving.pid_of("w0"), signal.SIGKILL)
    serving.wait_for(r"\[gateway\] told that w0 was killed by signal 9")
    serving.wait_for("w0 is back")
    os.kill(serving.pid_of("w0", times=2), signal.SIGKILL)
    serving.wait_for("it restarts in 1 s")
    serving.wait_for("w0 is back", times=2)


def test_a_killed_gateway_comes_back_on_the_same_port(serving: Fleet) -> None:
    os.kill(serving.pid_of("gateway"), signal.SIGKILL)
    serving.wait_for("gateway is back")
    serving.send(signal.SIGTERM)
    assert serving.wait() == 0


def test_a_worker_that_cannot_start_ends_everything_with_its_reason(supervise: Start, tmp_path: Path) -> None:
    (tmp_path / "w1.fails").write_text("no tensor is where it should be")
    fleet = supervise(2)
    assert fleet.wait() != 0
    assert re.search(r"error: w1 could not start \(it exited with code 3\): no tensor is where", fleet.text)
    for pid in re.findall(r"\] pid (\d+)", fleet.text):  # of those that came as far as saying it
        wait_until_gone(int(pid))


def test_a_worker_that_was_ready_once_is_restarted_even_when_it_fails_to_start(serving: Fleet, tmp_path: Path) -> None:
    (tmp_path / "w0.fails").write_text("not now")
    os.kill(serving.pid_of("w0"), signal.SIGKILL)
    serving.wait_for("w0 exited with code 3; it restarts in 1 s")
    (tmp_path / "w0.fails").unlink()
    serving.wait_for("w0 is back")


def test_sigterm_drains_the_gateway_first_and_then_the_workers(serving: Fleet, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    serving.send(signal.SIGTERM)
    serving.wait_for(r"\[gateway\] holding", times=3)
    assert "leaving" not in serving.text
    (tmp_path / "hold").unlink()
    assert serving.wait() == 0
    assert serving.text.index("[gateway] drained") < serving.text.index("[w0] leaving")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "tgkill"), reason="this system's C library signals no thread")
def test_a_signal_that_another_thread_was_given_is_heard(serving: Fleet) -> None:
    """As the system does it where the main thread has one to handle, or was stopped."""
    process = serving.process.pid
    other = next(thread for thread in threads_of(process) if thread != process and takes_signals(process, thread))
    assert ctypes.CDLL(None).tgkill(process, other, signal.SIGTERM) == 0
    assert serving.wait() == 0


def threads_of(process: int) -> list[int]:
    return [int(thread.name) for thread in Path(f"/proc/{process}/task").iterdir()]


def takes_signals(process: int, thread: int) -> bool:
    """ZeroMQ's own threads block them all."""
    blocked = re.search(r"^SigBlk:\s*(\w+)$", Path(f"/proc/{process}/task/{thread}/status").read_text(), re.MULTILINE)
    return blocked is not None and int(blocked[1], 16) == 0


def test_a_second_signal_stops_at_once(serving: Fleet, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    serving.send(signal.SIGINT)
    serving.wait_for(r"\[gateway\] holding")
    serving.send(signal.SIGINT)
    assert serving.wait() == 1
    assert "open requests were cut" in serving.text
    wait_until_gone(serving.pid_of("gateway"), serving.pid_of("w0"))


def test_no_child_outlives_a_supervisor_that_is_killed(serving: Fleet) -> None:
    serving.send(signal.SIGKILL)
    wait_until_gone(serving.pid_of("gateway"), serving.pid_of("w0"))


def test_a_busy_port_is_an_error_that_names_it_and_its_holder(supervise: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        fleet = supervise(STAND_IN_PORT=str(port))
        assert fleet.wait() == 3
    assert f"port {port} is busy: process {os.getpid()}" in fleet.text
    assert "--port" in fleet.text


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this platform pins no process to cores")
def test_workers_share_the_cores_out_evenly(supervise: Start) -> None:
    fleet = supervise(2)
    seen = [fleet.wait_for(rf"\[{name}\] cores \[(.*)\] threads (\d+)") for name in ("w0", "w1")]
    cores = [{int(core) for core in match[1].split(",")} for match in seen]
    everyone = os.sched_getaffinity(0)
    if len(everyone) > 1:
        assert not cores[0] & cores[1]
    assert cores[0] | cores[1] <= everyone
    assert {int(match[2]) for match in seen} == {max(1, len(everyone) // 2)}


def with_settings(folder: Path, text: str) -> None:
    (folder / "tokenworks.toml").write_text(text)


def test_a_killed_store_comes_back_and_nobody_is_told_that_a_worker_died(supervise: Start, tmp_path: Path) -> None:
    with_settings(tmp_path, '[kv]\nhost_bytes = "64MiB"\n')
    (tmp_path / "w1.silent").touch()
    fleet = supervise(2)
    address = fleet.wait_for(rf"\[kv0\] store of {64 << 20} bytes at (ipc://\S+)")[1]
    assert Path(address.removeprefix("ipc://")).parent.name.startswith("tokenworks-")
    fleet.wait_for("waiting for w1$")  # and for nobody else
    os.kill(fleet.pid_of("kv0"), signal.SIGKILL)
    fleet.wait_for(r"kv0 was killed by signal 9 .* it restarts in 0\.5 s")
    fleet.wait_for("kv0 is back")
    assert "told that" not in fleet.text


def test_a_store_that_says_nothing_holds_up_no_answer_and_no_stop(supervise: Start, tmp_path: Path) -> None:
    (tmp_path / "kv0.silent").touch()
    with_settings(tmp_path, f'[kv]\ndisk_path = "{tmp_path}/kv"\n')
    fleet = supervise()
    fleet.wait_for("Stop with Ctrl-C")
    fleet.pid_of("kv0")
    fleet.send(signal.SIGTERM)
    assert fleet.wait() == 0


def test_a_store_that_cannot_start_ends_everything_with_its_reason(supervise: Start, tmp_path: Path) -> None:
    with_settings(tmp_path, "[kv]\nhost_bytes = 1000000\n")
    (tmp_path / "kv0.fails").write_text("the folder is read-only")
    fleet = supervise()
    assert fleet.wait() == 3
    assert "error: kv0 could not start (it exited with code 3): the folder is read-only" in fleet.text


def test_the_store_ends_after_the_last_worker(supervise: Start, tmp_path: Path) -> None:
    with_settings(tmp_path, "[kv]\nhost_bytes = 1000000\n")
    fleet = supervise()
    fleet.wait_for("Stop with Ctrl-C")
    fleet.pid_of("kv0")
    fleet.send(signal.SIGTERM)
    assert fleet.wait() == 0
    assert fleet.text.index("[gateway] drained") < fleet.text.index("[w0] leaving") < fleet.text.index("[kv0] leaving")


def test_each_worker_gets_the_settings_of_its_own_entry(supervise: Start, tmp_path: Path) -> None:
    entries = [
        'role = "prefill"\nthreads = 1',
        'count = 2\nrole = "decode"\nthreads = 2',
        'runs = "openai"\nurl = "http://x/v1"',
    ]
    with_settings(tmp_path, "[kv]\nhost_bytes = 1000000\n" + "".join(f"[[workers]]\n{entry}\n" for entry in entries))
    fleet = supervise()
    seen = [fleet.wait_for(rf"\[w{index}\] cores \[(.*)\] threads (\d+) role (\w+)") for index in range(4)]
    assert [match[3] for match in seen] == ["prefill", "decode", "decode", "both"]
    assert [match[2] for match in seen][:3] == ["1", "2", "2"]
    everyone = sorted(os.sched_getaffinity(0))
    assert seen[3][1] == ", ".join(map(str, everyone)), "a relay is not kept on any cores"


def test_a_killed_observer_comes_back_and_ends_after_the_gateway(serving: Fleet) -> None:
    os.kill(serving.pid_of("observer"), signal.SIGKILL)
    serving.wait_for(r"observer was killed by signal 9 .*it restarts in 0.5 s")
    serving.pid_of("observer", times=2)
    serving.send(signal.SIGTERM)
    serving.wait_for(r"\[observer\] all is taken in")
    assert serving.wait() == 0


def test_an_observer_that_cannot_start_stops_nobody(supervise: Start, tmp_path: Path) -> None:
    (tmp_path / "observer.fails").write_text("no such folder")
    fleet = supervise()
    fleet.wait_for("Stop with Ctrl-C")
    fleet.wait_for(r"observer exited with code 3; it restarts in 1 s")
    fleet.send(signal.SIGTERM)
    assert fleet.wait() == 0
