"""Runs a command on a machine that seems to have too much to do: its processes stand still for moments, whichever and
whenever. Races that a quiet machine shows once in a thousand runs show here in one of ten, at no cost of a processor.

    .venv/bin/python -m tests.stalls .venv/bin/pytest -n 4 --dist loadfile tests/gateway

What fails only so waits too short a time, or looks before it can know; `--longest-s 2` is more than most tests promise
to bear.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

LOOK_EVERY_S = 1.0  # for processes that have come: a look takes some milliseconds
ONE_IN = 12  # of them stand still at a time


def main() -> int:
    """The command's exit code."""
    parser = argparse.ArgumentParser(description="Stop a command's processes for moments while it runs.")
    parser.add_argument("--longest-s", type=float, default=0.5, help="longest time that a process is stopped for")
    parser.add_argument("--pause-s", type=float, default=0.3, help="longest time between two stops")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    running = subprocess.Popen(chosen.command)
    with suppress(KeyboardInterrupt):
        stall_until_over(running, chosen.longest_s, chosen.pause_s)
    return running.wait()


def stall_until_over(running: subprocess.Popen[bytes], longest_s: float, pause_s: float) -> None:
    """Stop some of what a process has started, again and again."""
    found: Sequence[psutil.Process] = []
    looked_s = 0.0
    while running.poll() is None:
        if time.monotonic() - looked_s > LOOK_EVERY_S:
            looked_s = time.monotonic()
            with suppress(psutil.Error):
                found = psutil.Process(running.pid).children(recursive=True)
        with stopped(random.sample(found, min(len(found), 1 + len(found) // ONE_IN))):
            time.sleep(random.uniform(0.03, longest_s))
        time.sleep(random.uniform(0.0, pause_s))


@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """They stand still while the block runs."""
    try:
        for each in processes:
            with suppress(psutil.Error):
                each.send_signal(signal.SIGSTOP)
        yield
    finally:
        for each in processes:
            with suppress(psutil.Error):
                each.send_signal(signal.SIGCONT)


if __name__ == "__main__":
    sys.exit(main())
