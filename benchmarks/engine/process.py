"""Runs one variant's process: its lines as they come, killed with all its children when its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.engine.variants import ROOT

TAIL_CHARACTERS: Final = 800


class EngineProcess:
    """One process in a session of its own, so that it can be ended together with what it started."""

    def __init__(self, command: Sequence[str], limit_s: float) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `finish`
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._stderr, text=True, start_new_session=True
        )
        self._limit_s = limit_s
        self._is_late = False
        self._timer = threading.Timer(limit_s, self._end_late)
        self._timer.start()

    def lines(self) -> Iterator[str]:
        """Lines of stdout, until the process closes it."""
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            yield from stdout

    def finish(self) -> str:
        """Wait for the end; why it went wrong, empty where it did not."""
        code = self._process.wait()
        self._timer.cancel()
        self._kill_group()  # what it may have left behind
        self._stderr.seek(0)
        tail = " ".join(self._stderr.read()[-TAIL_CHARACTERS:].split())
        self._stderr.close()
        if self._is_late:
            return f"stopped after {self._limit_s:.0f} s"
        return f"exit code {code}: {tail}" if code else ""

    def stop(self) -> None:
        """End it now."""
        self._timer.cancel()
        self._kill_group()

    def _end_late(self) -> None:
        self._is_late = True
        self._kill_group()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
