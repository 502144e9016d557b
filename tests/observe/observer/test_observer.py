"""The observer as a process: what was flushed is in the ledger once, whoever is killed when."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from tests.observe.made import NOON_NS, record
from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.errors import ConfigError, LedgerError, StartupError
from tokenworks.observe.journal.writer import Journal
from tokenworks.observe.ledger import Window
from tokenworks.observe.observer import process
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.process import _Clock, run_observer
from tokenworks.observe.store import open_ledger

ALL = Window(0, 2 * NOON_NS)
PATIENCE_S = 60.0  # a bound for a machine that is busy with other things, not an expectation

WRITER = """
import sys, time
from pathlib import Path
from tests.observe.made import record
from tokenworks.observe.journal.writer import Journal
name, journal, number = sys.argv[2], Journal(Path(sys.argv[1]) / "journal", "gateway", 0.05), 0
while True:
    for _ in range(5):
        journal.append(record(0, time.time_ns(), id=f"{name}-{number}"))
        number += 1
    journal.flush()
    print(number, flush=True)
    time.sleep(0.05)
"""


class Started:
    """A process and everything it has said."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for(self, pattern: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if re.search(pattern, line):
                return line
        raise AssertionError(f"{pattern!r} was never said")

    def end(self, number: int) -> list[str]:
        """Send a signal; what else was said until its end."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=PATIENCE_S)
        return said.splitlines()


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def run(*command: str) -> Started:
        started.append(Started([sys.executable, *command]))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.communicate()


def observer(start: Callable[..., Started], folder: Path) -> Started:
    return start("-m", "tokenworks", "observer", "--ledger-path", str(folder))


def ids(folder: Path) -> list[str]:
    with closing(open_ledger(LedgerSettings(path=str(folder)))) as ledger:
        found = [ended.record.id for ended in ledger.records(ALL, limit=1_000_000)]
        assert ledger.cells(ALL)[""].requests == len(found)
        assert ledger.gaps(ALL) == []
        return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def has_records(folder: Path) -> bool:
    try:
        with closing(open_ledger(LedgerSettings(path=str(folder)))) as ledger:
            return ledger.extent() is not None
    except LedgerError:
        return False


@pytest.mark.slow
def test_what_was_flushed_is_in_the_ledger_once_whoever_is_killed(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    random, flushed = Random(0), {}
    for name in ("first", "second"):
        writer = start("-c", WRITER, str(tmp_path), name)
        watching = observer(start, tmp_path)
        watching.wait_for("observing")
        wait_until(lambda: has_records(tmp_path), "records are in the ledger")
        time.sleep(random.random() / 2)
        watching.process.kill()
        flushed[name] = int(writer.end(signal.SIGKILL)[-1])
    last = observer(start, tmp_path)
    last.wait_for("observing")
    last.end(signal.SIGTERM)
    assert last.process.returncode == 0
    found = ids(tmp_path)
    assert len(found) == len(set(found))
    for name, count in flushed.items():
        assert {f"{name}-{number}" for number in range(count)} <= set(found)
    assert list((tmp_path / "journal").glob("*.journal")) == []


def test_the_end_takes_in_what_was_written_just_before(start: Callable[..., Started], tmp_path: Path) -> None:
    watching = observer(start, tmp_path)
    watching.wait_for("observing")
    journal = Journal(tmp_path / "journal", "gateway", 0.05)
    journal.append(record(1, time.time_ns()))
    journal.close()
    watching.end(signal.SIGTERM)
    assert watching.process.returncode == 0
    assert ids(tmp_path) == ["req-1"]


def test_a_second_observer_waits_until_the_first_is_gone(start: Callable[..., Started], tmp_path: Path) -> None:
    first = observer(start, tmp_path)
    first.wait_for("observing")
    second = observer(start, tmp_path)
    second.wait_for("another observer watches .* this one waits")
    first.end(signal.SIGKILL)
    second.wait_for("observing")
    third = observer(start, tmp_path)
    third.wait_for("this one waits")
    third.end(signal.SIGTERM)
    assert third.process.returncode == 0


def test_it_is_nice_to_whoever_computes(start: Callable[..., Started], tmp_path: Path) -> None:
    watching = observer(start, tmp_path)
    watching.wait_for("observing")
    assert os.getpriority(os.PRIO_PROCESS, watching.process.pid) >= process.NICENESS


def test_without_a_ledger_or_a_folder_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="off"):
        run_observer(Settings(ledger=LedgerSettings(path="off")))
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="set path in"):
        run_observer(Settings(ledger=LedgerSettings(path=str(tmp_path / "file"))))


def test_a_task_that_fails_is_begun_again_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "AGAIN_S", 0.01)
    times = 0

    async def failing(context: ObserverContext) -> None:
        nonlocal times
        times += 1
        if times < 3:
            raise RuntimeError("not this time")

    async def ending(context: ObserverContext) -> None:
        while times < 3:
            await asyncio.sleep(0.01)
        context.stopping.set()
        await asyncio.Event().wait()  # cancelled at the end

    journal = Journal(tmp_path / "journal", "gateway", 0.05)
    journal.append(record(1, time.time_ns()))
    journal.close()
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run_observer(Settings(ledger=LedgerSettings(path=str(tmp_path))), [failing, ending])
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
        signal.signal(number, handler)
    assert caplog.text.count("it begins again") == 2
    assert ids(tmp_path) == ["req-1"]


def test_retention_does_not_believe_a_clock_that_jumps_ahead() -> None:
    wall, ticks = [1000], [50]
    clock = _Clock(lambda: wall[0], lambda: ticks[0])
    wall[0], ticks[0] = 10**18, 60
    assert clock.now_ns() == 1010
    wall[0], ticks[0] = 500, 70
    assert clock.now_ns() == 500
