"""Databases that are locked, damaged, too new, full or gone: what is told, and that nothing is lost by it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.observe.made import NOON_NS, record
from tests.observe.store.conftest import PostgresServer
from tokenworks.contract.config import CostSettings, LedgerSettings, Settings
from tokenworks.contract.errors import ConfigError, LedgerBusy, LedgerDamaged, LedgerError, LedgerMissing, LedgerTooNew
from tokenworks.contract.record import Frame, Gap
from tokenworks.observe.journal.writer import Journal
from tokenworks.observe.ledger import Span, Window
from tokenworks.observe.observer.intake import Intake
from tokenworks.observe.observer.waiting_spans import MAX_WAITING_SPANS
from tokenworks.observe.store import SqlLedger, database, migrate, open_ledger, schema, take_in
from tokenworks.observe.store.open import open_writing
from tokenworks.observe.store.schema import VERSIONS, tables

ALL = Window(0, 2 * NOON_NS)
Opened = Callable[..., SqlLedger]


@pytest.fixture
def here(tmp_path: Path) -> LedgerSettings:
    return LedgerSettings(path=str(tmp_path))


def write_journal(folder: Path, frames: list[Frame]) -> None:
    journal = Journal(folder / "journal", "gateway", 0.05)
    for frame in frames:
        journal.append(frame)
    journal.close()


def drain(intake: Intake, turns: int = 50) -> None:
    while intake.turn() and turns:
        turns -= 1
    intake.turn()


def requests(settings: LedgerSettings) -> int:
    with closing(open_ledger(settings)) as ledger:
        return ledger.cells(ALL)[""].requests


def test_there_is_nothing_to_read_before_something_was_written(here: LedgerSettings) -> None:
    with pytest.raises(LedgerMissing, match="no ledger at .* yet: `tokenworks serve` begins one"):
        open_ledger(here)
    with pytest.raises(LedgerError, match="it is off"):
        open_ledger(LedgerSettings(path="off"))
    assert not (Path(here.path) / "ledger.sqlite").exists()


@pytest.mark.parametrize("address", ["mysql://host/name", "ledger.sqlite", "postgresql://host:port/name"])
def test_a_database_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="database"):
        open_ledger(LedgerSettings(path=str(tmp_path), database=address), is_writing=True)


def test_the_steps_make_the_tables_that_the_code_knows(settings: LedgerSettings, opened: Opened) -> None:
    made = opened(settings)._database.engine
    inspected = database.sa.inspect(made)
    assert set(inspected.get_table_names()) == {*tables.tables, "alembic_version"}
    for name, table in tables.tables.items():
        columns = {column["name"]: column["nullable"] for column in inspected.get_columns(name)}
        assert columns == {column.name: column.nullable for column in table.columns}
        assert set(inspected.get_pk_constraint(name)["constrained_columns"]) == {c.name for c in table.primary_key}
        indexes = {
            str(index["name"]) for index in inspected.get_indexes(name) if not index.get("duplicates_constraint")
        }
        assert indexes == {str(index.name) for index in table.indexes}
    assert [script.revision for script in scripts()][::-1] == list(VERSIONS)


def scripts() -> list[object]:
    from alembic.script import ScriptDirectory

    return list(ScriptDirectory(str(migrate.STEPS)).walk_revisions())


def test_a_ledger_of_a_newer_version_is_left_alone(settings: LedgerSettings, opened: Opened) -> None:
    with opened(settings)._database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for is_writing in (True, False):
        with pytest.raises(LedgerTooNew, match="written by a newer version .* 9999"):
            open_ledger(settings, is_writing=is_writing)


def test_a_ledger_of_an_older_version_is_brought_up_by_its_writer_alone(
    settings: LedgerSettings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(settings).close()
    monkeypatch.setattr(migrate, "VERSIONS", (*VERSIONS, "next"))
    with pytest.raises(LedgerError, match="of an older version"):
        open_ledger(settings)


def test_a_ledger_of_the_first_version_keeps_what_is_in_it(settings: LedgerSettings, opened: Opened) -> None:
    """As it was before prices were noted and failures listed, with records in it."""
    old = opened(settings)
    old.take_in([record(), record(1, outcome="timeout"), record(2, outcome="no_worker"), record(3, outcome="timeout")])
    with old._database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE prices")
        connection.exec_driver_sql("DROP TABLE failures")
        gone = schema.records.update().where(schema.records.c.ended_ns > NOON_NS + 2)
        connection.execute(gone.values(body=b"?"))
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    old.close()
    with pytest.raises(LedgerError, match="`tokenworks serve` brings it up"):
        open_ledger(settings)
    ledger = opened(settings)
    assert (ledger.cells(ALL)[""].requests, ledger.prices(ALL)) == (4, [])
    assert ledger.outcomes(ALL) == {"ok": 1, "timeout": 1, "no_worker": 1}  # what cannot be read is not listed
    assert [each.record.id for each in ledger.records(ALL, outcome="failed")] == ["req-2", "req-1"]


def test_prices_are_noted_when_they_change_and_hold_from_then_on(settings: LedgerSettings, opened: Opened) -> None:
    ledger = opened(settings)
    first, second = CostSettings(energy_per_kwh=0.1), CostSettings(energy_per_kwh=0.2, currency="EUR")
    for at_ns, cost in ((NOON_NS, first), (NOON_NS + 5, first), (NOON_NS + 10, second), (NOON_NS + 3, first)):
        ledger.note_prices(cost, at_ns)
    back = NOON_NS + 11  # the clock had stepped back: what was noted stays in order
    assert ledger.prices(ALL) == [(NOON_NS, first), (NOON_NS + 10, second), (back, first)]
    assert ledger.prices(Window(NOON_NS + 7, NOON_NS + 11)) == [(NOON_NS, first), (NOON_NS + 10, second)]
    assert ledger.prices(Window(NOON_NS + 12, NOON_NS + 20)) == [(back, first)]
    assert ledger.prices(Window(0, NOON_NS)) == []


def test_whoever_keeps_a_ledger_notes_its_prices(here: LedgerSettings) -> None:
    stated = Settings(ledger=here, cost=CostSettings(host_per_gb_hour=0.01))
    for _ in range(2):
        open_writing(stated).close()
    ledger = open_ledger(here)
    assert [cost for _, cost in ledger.prices(Window(0, time.time_ns()))] == [stated.cost]
    ledger.close()


def test_a_reader_changes_nothing(here: LedgerSettings, opened: Opened) -> None:
    opened(here).take_in([record()])
    reader = opened(here, is_writing=False)
    with pytest.raises(LedgerError, match="readonly"):
        reader.take_in([record(1)])
    assert reader.cells(ALL)[""].requests == 1


def test_a_reader_sees_what_was_there_while_a_writer_works(settings: LedgerSettings, opened: Opened) -> None:
    writer, reader = opened(settings), opened(settings, is_writing=False)
    writer.take_in([record()])
    with writer._database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM records")
        assert len(list(reader.records(ALL))) == 1
    assert list(reader.records(ALL)) == []


def test_what_fails_half_way_leaves_nothing_and_can_be_done_again(
    settings: LedgerSettings, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(settings)
    tagged = [record(number, tenant=f"t{number}", tags={"a": str(number)}) for number in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(take_in, "note_positions", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger.take_in(tagged, (), {"file": 7})
    assert ledger.cells(ALL) == {}
    assert ledger.positions() == {}
    ledger.take_in(tagged, (), {"file": 7})
    assert ledger.cells(ALL)[""].requests == 5
    assert len(ledger.cells(ALL, "tag:a")) == 5
    assert ledger.positions() == {"file": 7}


def test_a_frame_that_cannot_be_kept_is_a_gap_and_the_others_are_kept(here: LedgerSettings) -> None:
    write_journal(Path(here.path), [record(1), record(2, status=2**40), record(3, gaps_us=b"odd"), record(4)])
    intake = Intake(Settings(ledger=here), Path(here.path))
    drain(intake)
    intake.close()
    with closing(open_ledger(here)) as ledger:
        assert {ended.record.id for ended in ledger.records(ALL)} == {"req-1", "req-2", "req-4"}
        [gap] = ledger.gaps(ALL)
    assert gap.frames == 1
    assert "could not be kept" in gap.reason


def test_a_locked_database_is_waited_for_and_the_journal_keeps_everything(
    here: LedgerSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.05)
    folder = Path(here.path)
    intake = Intake(Settings(ledger=here), folder)
    write_journal(folder, [record(1)])
    drain(intake)
    with closing(sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write_journal(folder, [record(2)])
        assert not intake.turn()
        assert not intake.turn()
        assert caplog.text.count("another program holds it locked") == 1
        assert list((folder / "journal").glob("*.journal"))
    drain(intake)
    intake.close()
    assert requests(here) == 2
    assert "can be written again" in caplog.text
    assert not list((folder / "journal").glob("*.journal"))


def test_that_there_is_nothing_to_roll_up_does_not_mean_that_it_can_be_written(
    here: LedgerSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise LedgerError("the disk is full")

    intake = Intake(Settings(ledger=here), Path(here.path))
    write_journal(Path(here.path), [record(1)])
    with monkeypatch.context() as full:
        full.setattr(SqlLedger, "take_in", refuse)
        for _ in range(3):
            assert not intake.turn()
            assert not intake.keep_up(NOON_NS)
        assert caplog.text.count("the disk is full") == 1
        assert "can be written again" not in caplog.text
    drain(intake)
    intake.close()
    assert caplog.text.count("can be written again") == 1


@pytest.mark.parametrize("damage", ["rubbish", "page", "cut"])
def test_a_damaged_database_is_put_aside_and_a_new_one_tells_of_it(
    here: LedgerSettings, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(here.path)
    with closing(open_ledger(here, is_writing=True)) as ledger:
        ledger.take_in([record(number, NOON_NS + number) for number in range(200)])
    file = folder / "ledger.sqlite"
    whole = bytearray(file.read_bytes())
    if damage == "rubbish":
        whole[:100] = os.urandom(100)
    elif damage == "page":
        whole[4096:] = os.urandom(len(whole) - 4096)
    file.write_bytes(whole[: 4096 * 3] if damage == "cut" else whole)
    write_journal(folder, [record(1000)])
    intake = Intake(Settings(ledger=here), folder)
    drain(intake)
    intake.close()
    aside = [path for path in folder.iterdir() if ".damaged-" in path.name]
    assert aside
    assert "is damaged" in caplog.text
    with closing(open_ledger(here)) as ledger:
        assert ledger.cells(ALL)[""].requests == 1
        [gap], [incident] = ledger.gaps(ALL), ledger.incidents(Window(0, 2**62))
    assert str(aside[0]).partition(".damaged-")[0] in gap.reason
    assert incident.kind == "ledger_damaged"


def test_a_damaged_database_is_told_to_who_only_reads(here: LedgerSettings) -> None:
    file = Path(here.path) / "ledger.sqlite"
    file.write_bytes(os.urandom(8192))
    with pytest.raises(LedgerDamaged, match=f"{file} is damaged .*`tokenworks serve` moves it aside"):
        open_ledger(here)
    assert file.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root: run the tests as root, in a container for instance")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_keeps_what_there_is_and_goes_on_when_there_is_room(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LedgerSettings(path=str(small_disk))
    intake = Intake(Settings(ledger=settings), small_disk)
    write_journal(small_disk, [record(0)])
    drain(intake)
    write_journal(small_disk, [record(n, NOON_NS + n, gaps_us=os.urandom(40_000)) for n in range(1, 11)])
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        fill(ballast)
    assert not intake.turn()
    assert "the disk is full: make room" in caplog.text
    ballast.unlink()
    drain(intake)
    intake.close()
    assert requests(settings) == 11


def test_a_server_that_goes_away_and_comes_back_gets_everything(
    tmp_path: Path, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LedgerSettings(path=str(tmp_path), database=postgres.new_database())
    intake = Intake(Settings(ledger=settings), tmp_path)
    write_journal(tmp_path, [record(1)])
    drain(intake)
    postgres.stop()
    try:
        write_journal(tmp_path, [record(2)])
        assert not intake.turn()
        with pytest.raises(LedgerBusy, match="cannot be reached"):
            open_ledger(settings)
    finally:
        postgres.start()
    drain(intake)
    intake.close()
    assert requests(settings) == 2
    assert caplog.text.count("cannot be reached") == 1


def test_a_password_is_never_told(tmp_path: Path) -> None:
    settings = LedgerSettings(path=str(tmp_path), database="postgresql://me:secret@127.0.0.1:1/ledger")
    with pytest.raises(LedgerBusy, match=r"me:\*\*\*@127.0.0.1:1/ledger") as told:
        open_ledger(settings, is_writing=True)
    assert "secret" not in told.value.message


def test_what_is_kept_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_journal(folder, [record()])
    open_ledger(LedgerSettings(path=str(folder)), is_writing=True).close()
    assert stat.S_IMODE((folder / "journal").stat().st_mode) == 0o700
    for file in [*(folder / "journal").iterdir(), *folder.glob("ledger*")]:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_spans_wait_in_a_bounded_queue_until_they_are_kept(here: LedgerSettings) -> None:
    intake = Intake(Settings(ledger=here), Path(here.path))
    span = Span("0" * 31 + "1", "1" * 16, "", "rag", "search", "server", NOON_NS, 5)
    spans = [msgspec.structs.replace(span, span_id=f"{n:016x}") for n in range(MAX_WAITING_SPANS)]
    kept = intake.spans.offer(spans[1:])
    assert intake.spans.offer(spans[:2]) is None
    last = intake.spans.offer(spans[:1])
    assert kept is not None
    assert last is not None
    intake.turn()
    assert not kept.done()
    drain(intake)
    assert (kept.result(0), last.result(0)) == (None, None)
    intake.close()
    with closing(open_ledger(here)) as ledger:
        assert len(ledger.spans(span.trace_id)) == MAX_WAITING_SPANS
        with pytest.raises(LedgerError, match="no trace id"):
            ledger.spans("xyz")


def test_spans_that_cannot_be_kept_are_given_back(here: LedgerSettings) -> None:
    intake = Intake(Settings(ledger=here), Path(here.path))
    kept = intake.spans.offer([Span("no id", "1" * 16, "", "rag", "search", "server", NOON_NS, 5)])
    assert kept is not None
    assert intake.turn()
    with pytest.raises(LedgerError, match="these spans cannot be kept"):
        kept.result(0)
    assert not intake.turn()
    intake.close()


def test_a_gap_of_the_journal_is_in_the_ledger(here: LedgerSettings) -> None:
    now_ns = time.time_ns()
    write_journal(Path(here.path), [Gap(now_ns - 5, now_ns, 7, "the disk was full")])
    intake = Intake(Settings(ledger=here), Path(here.path))
    drain(intake)
    intake.close()
    with closing(open_ledger(here)) as ledger:
        assert [gap.frames for gap in ledger.gaps(Window(now_ns - 2, now_ns))] == [7]
        assert ledger.gaps(Window(now_ns + 5, now_ns + 6)) == []
