"""A supervisor in a process of its own, read line by line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

STAND_IN = Path(__file__).with_name("stand_in.py")
PATIENCE_S = 300.0  # a bound for a machine that is busy with other things, not an expectation


class RunningCommand:
    """A started command and everything it has written so far; every wait has a generous bound."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self._heard = threading.Condition()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """The latest line that `pattern` is found in, once there are `times` of them."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        with self._heard:
            is_there = self._heard.wait_for(lambda: len(found()) >= times, PATIENCE_S)
        assert is_there, f"{pattern!r} did not come {times} times in:\n{self.text}"
        return found()[times - 1]

    def pid_of(self, name: str, times: int = 1) -> int:
        """The process id that a stand-in child wrote at its `times`-th start."""
        return int(self.wait_for(rf"^\[{name}\] pid (\d+)", times)[1])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, after the last line was read."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    def close(self) -> None:
        self.process.kill()
        self.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self.lines.append(line.rstrip())
                self._heard.notify_all()


@pytest.fixture
def run_command() -> Iterator[Callable[..., RunningCommand]]:
    started: list[RunningCommand] = []
    # A supervisor that is killed leaves its run directory behind; pytest's own folder has too long a name for sockets.
    with tempfile.TemporaryDirectory() as folder:

        def run(command: Sequence[str], environment: dict[str, str] | None = None) -> RunningCommand:
            started.append(RunningCommand(command, {"TMPDIR": folder, **(environment or {})}))
            return started[-1]

        yield run
        for command in started:
            command.close()


@pytest.fixture
def supervise(tmp_path: Path, run_command: Callable[..., RunningCommand]) -> Callable[..., RunningCommand]:
    """Starts a supervisor of stand-in children that `tmp_path` steers."""

    def start(num_workers: int = 1, **environment: str) -> RunningCommand:
        return run_command([sys.executable, str(STAND_IN), "serve", str(tmp_path), str(num_workers)], environment)

    return start


@pytest.fixture
def serving(supervise: Callable[..., RunningCommand]) -> RunningCommand:
    """A supervisor with one worker, after it has shown its address."""
    fleet = supervise()
    fleet.wait_for("Stop with Ctrl-C")
    return fleet
