"""Real programs that take the processor from others: each computes on one core, as hard as it can, for a while."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

LONGEST_S = 60.0
"""They end by themselves, whatever becomes of those who started them."""
_PROGRAM = """
import sys, time
end_s = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end_s:
    sum(range(100_000))
"""


@contextmanager
def busy_cores(cores: Sequence[int], each: int) -> Iterator[None]:
    """So many programs on each of these cores, while the block lasts."""
    command = [sys.executable, "-S", "-c", _PROGRAM, str(LONGEST_S)]
    pin = [partial(os.sched_setaffinity, 0, {core}) for core in cores for _ in range(each)]
    programs = [subprocess.Popen(command, preexec_fn=each_pin) for each_pin in pin]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def cores_of(pids: Sequence[int]) -> list[int]:
    """Those that the processes may use."""
    return sorted(set().union(*(os.sched_getaffinity(pid) for pid in pids)))


@contextmanager
def pinned(pid: int, cores: Sequence[int]) -> Iterator[None]:
    """A process, all its threads, on these cores alone, while the block lasts."""
    tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    before = os.sched_getaffinity(pid)
    _pin(tasks, set(cores))
    try:
        yield
    finally:
        _pin(tasks, before)


def _pin(tasks: Sequence[int], cores: set[int]) -> None:
    for task in tasks:
        if os.path.exists(f"/proc/{task}"):
            os.sched_setaffinity(task, cores)
