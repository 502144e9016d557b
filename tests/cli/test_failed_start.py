"""A start that fails is in the ledger, so that `tokenworks diagnose` can say later what happened."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokenworks.cli.failed_start import note_failed_start
from tokenworks.cli.main import main
from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.errors import ConfigError, PartNotStarted, TokenworksError
from tokenworks.contract.record import Incident
from tokenworks.observe.journal.reader import JournalReader
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import open_ledger


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def test_a_taken_port_is_told_of_by_diagnose(tmp_path: Path, taken_port: int) -> None:
    place = ("--ledger-path", str(tmp_path / "ledger"))
    code, said = run("serve", "--port", str(taken_port), *place)
    assert code == 3
    code, told = run("diagnose", *place)
    assert code == 0
    assert "Starts of the system that failed, and not by a worker: 1." in told
    assert f"port {taken_port}" in told
    assert f"port {taken_port}" in said


@pytest.mark.parametrize(
    ("part", "kind"), [("w1", "worker_not_started"), ("gateway", "gateway_not_started"), ("kv0", "store_not_started")]
)
def test_a_part_that_could_not_start_is_an_incident_with_its_last_words(tmp_path: Path, part: str, kind: str) -> None:
    settings = Settings(ledger=LedgerSettings(path=str(tmp_path)))
    for _ in range(2):  # into a new ledger, and into one that is there
        note_failed_start(settings, PartNotStarted(f"{part} could not start", part, "exited with code 1: no memory"))
    found = open_ledger(settings.ledger).incidents(Window(0, 2**62))
    assert [(each.kind, each.subject, each.text) for each in found] == [
        (kind, part, "exited with code 1: no memory")
    ] * 2


def test_where_the_database_cannot_be_had_the_next_start_finds_it_in_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = f"postgresql://nobody@/none?host={tmp_path}"
    settings = Settings(ledger=LedgerSettings(path=str(tmp_path), database=nowhere))
    note_failed_start(settings, PartNotStarted("w0 could not start", "w0", "exited with code 1: it said nothing"))
    [incident] = JournalReader(tmp_path / "journal").read({}).frames
    assert isinstance(incident, Incident)
    assert (incident.kind, incident.subject) == ("worker_not_started", "w0")
    assert "what could not start is noted at the next start" in caplog.text


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("off", PartNotStarted("w0 could not start", "w0", "exited with code 1")),
        ("ledger", ConfigError("no model there")),
        ("ledger", TokenworksError("did not drain")),
        ("file/ledger", PartNotStarted("w0 could not start", "w0", "exited with code 1")),
    ],
    ids=["off", "usage", "later", "nowhere"],
)
def test_nothing_is_noted_without_a_place_or_a_failed_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, error: TokenworksError
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    note_failed_start(Settings(ledger=LedgerSettings(path=path)), error)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["file"]
