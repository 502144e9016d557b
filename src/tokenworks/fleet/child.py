"""One child process: started in its own process group, its output read line by line, its end reported.

A terminal's Ctrl-C reaches the whole foreground group; in a group of its own a child hears of it only from the
supervisor, which drains in the right order. Both threads here only wait for the kernel and hand on what they got;
deciding is `lifecycle`'s.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

from tokenworks.fleet.events import Exited

_KEPT_LINES: Final = 40
_SPOKEN_LINES: Final = 5
_CANNOT_RUN: Final = 126  # a shell's code for a command that cannot be executed
_ERROR: Final = "error: "  # how the command line begins the reason for its exit


class Child:
    """A running process, kept on `cores` if given.

    `on_line` and `on_exit` are called from this child's own threads, or at once where the system starts no process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        on_line: Callable[[str, str], None],
        on_exit: Callable[[Exited], None],
        cores: Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self._on_line = on_line
        self._on_exit = on_exit
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = _start(command, cores)
        except OSError as error:  # no more processes or memory for them: for now, perhaps
            reason = f"no process can be started: {error}"
            on_line(name, _ERROR + reason)
            on_exit(Exited(name, _CANNOT_RUN, reason))
        else:
            threading.Thread(target=self._wait, args=(self._process,), name=f"wait-{name}", daemon=True).start()

    def signal(self, number: int) -> None:
        """Send a signal, if the process still is."""
        if self._process is not None:
            self._process.send_signal(number)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        code = process.wait()
        reader.join(timeout=1.0)  # a grandchild may hold the pipe open; the last words are here all the same
        self._on_exit(Exited(self.name, code, last_words(list(self._lines))))

    def _read(self, pipe: IO[bytes]) -> None:
        for raw in pipe:
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            self._on_line(self.name, line)


def _start(command: Sequence[str], cores: Sequence[int] | None) -> subprocess.Popen[bytes]:
    with _running_on(cores):
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"},
        )


@contextmanager
def _running_on(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread on `cores` for a moment: a process started meanwhile is on them from its first instruction on.

    Without effect where the platform cannot pin.
    """
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def last_words(lines: Sequence[str]) -> str:
    """Why a process says it ended: from its last `error: ` line on, or else its last few lines."""
    spoken = [line for line in lines if line.strip()]
    starts = [index for index, line in enumerate(spoken) if line.startswith(_ERROR)]
    if starts:
        return "\n".join([spoken[starts[-1]].removeprefix(_ERROR), *spoken[starts[-1] + 1 :]])
    return "\n".join(spoken[-_SPOKEN_LINES:])
