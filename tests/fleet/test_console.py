"""What the supervisor shows: a line per change in a log, one moving line on a terminal."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.fleet.console import FleetConsole


def written_by(is_terminal: bool) -> str:
    file = StringIO()
    console = FleetConsole(Console(file=file, force_terminal=is_terminal, markup=False, highlight=False, width=200))
    console.wait_for(["gateway", "w0"])
    console.wait_for(["gateway", "w0"])
    console.pass_on("w0", "a [bold] line")
    console.wait_for(["w0"])
    console.show_address(Settings())
    console.wait_for([])
    console.say("bye")
    console.close()
    return file.getvalue()


def test_a_log_gets_one_line_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    expected = ["waiting for gateway, w0", "a [bold] line", "waiting for w0", "bye"]
    lines = written_by(is_terminal=False).splitlines()
    assert [line.partition("] ")[2] for line in lines] == expected
    usage = capsys.readouterr().out
    assert "/v1/chat/completions" in usage
    assert "http://127.0.0.1:8000/dashboard" in usage


def test_a_terminal_gets_a_moving_line_that_is_gone_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    text = written_by(is_terminal=True)
    assert "waiting for gateway, w0" in text
    assert "[w0] a [bold] line" in text
    show_cursor = "\x1b[?25h"
    assert text.endswith("bye\n")
    assert show_cursor in text


def test_where_nothing_can_be_recorded_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "state", "is recorded in"), (tmp_path / "file" / "x", "cannot be written to")):
        FleetConsole().show_address(Settings(ledger=LedgerSettings(path=str(path))))
        assert said in capsys.readouterr().out
