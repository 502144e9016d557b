"""A child process: what the supervisor hears of one that the system does not start."""

from __future__ import annotations

import signal
from pathlib import Path

from tokenworks.fleet.child import Child
from tokenworks.fleet.events import Exited


def test_a_process_that_cannot_be_started_is_an_exit_with_its_reason(tmp_path: Path) -> None:
    lines: list[str] = []
    exits: list[Exited] = []
    child = Child("w0", [str(tmp_path / "none")], lambda _, line: lines.append(line), exits.append)
    [exited] = exits
    assert (exited.name, exited.code) == ("w0", 126)
    assert "No such file" in exited.last_words
    assert lines == [f"error: {exited.last_words}"]
    child.signal(signal.SIGTERM)  # there is nobody to signal
