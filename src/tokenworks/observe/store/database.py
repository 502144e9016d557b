"""A connection pool over either database, set up so that what is committed is safe and readers never wait for writers.

SQLite: write-ahead log, synced at every commit (the journal behind it is deleted then), one writer at a time by its own
lock. PostgreSQL: one writer at a time by an advisory lock, so that cells can be read, merged and written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import sqlalchemy as sa

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import ConfigError, LedgerError, LedgerMissing
from tokenworks.contract.extras import install_command
from tokenworks.contract.folders import state_folder
from tokenworks.observe.store.errors import told

FILE: Final = "ledger.sqlite"
PAGES_AT_ONCE: Final = 1000
SPARE_PAGES: Final = 2000  # that it may keep for what comes next
WAIT_S: Final = 5.0  # for somebody else's lock
_LOCK: Final = 0x746F6B656E77  # "tokenw": the advisory lock's number
_POSTGRES: Final = ("postgresql://", "postgres://")


class Database:
    """One ledger's database. `where` names it in messages, without a password."""

    def __init__(self, engine: sa.Engine, where: str, file: Path | None) -> None:
        self.engine = engine
        self.where = where
        self.file = file  # SQLite's; None: PostgreSQL

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state throughout; raises LedgerError."""
        with told(self.where), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that nobody else writes beside; committed at the end. Raises LedgerError."""
        with told(self.where), self.engine.begin() as connection:
            if self.file is None:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    def give_back(self) -> bool:
        """Return free pages of SQLite's file to the file system, some at a time; whether there are more.

        PostgreSQL does that by itself.
        """
        if self.file is None:
            return False
        with told(self.where), closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            [free] = cursor.execute("PRAGMA freelist_count").fetchone()
            if free > SPARE_PAGES:  # a script is stepped through to its end; of a statement, one page is
                cast(sqlite3.Cursor, cursor).executescript(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
        return bool(free > SPARE_PAGES + PAGES_AT_ONCE)

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def connect(settings: LedgerSettings, *, is_writing: bool) -> Database:
    """The database that the settings name, which may be empty; raises LedgerError, ConfigError."""
    folder = state_folder(settings)
    if folder is None:
        raise LedgerError("there is no ledger: it is off; set path in [ledger] to a folder, or leave it out")
    if settings.database:
        return _postgres(settings.database, is_writing)
    return _sqlite(folder / FILE, is_writing)


def _sqlite(file: Path, is_writing: bool) -> Database:
    if is_writing:
        _make(file)
    elif not file.exists():
        raise LedgerMissing(f"there is no ledger at {file} yet: `tokenworks serve` begins one")
    # Through the operating system's own path: a `?` or `%` in a folder's name is no option.
    address = f"file:{quote(str(file))}?mode={'rwc' if is_writing else 'rw'}"
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=address, query={"uri": "true"}),
        connect_args={"timeout": WAIT_S, "isolation_level": None, "check_same_thread": False},
        pool_size=4,
    )
    sa.event.listen(engine, "connect", _set_up_writer if is_writing else _set_up_reader)
    sa.event.listen(engine, "begin", _begin_writing if is_writing else _begin_reading)
    return Database(engine, str(file), file)


def _make(file: Path) -> None:
    """An empty file is an empty database; made here, nobody else may read it, nor what SQLite puts beside it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerError(f"cannot make the ledger {file} ({error.strerror}): set path in [ledger]") from error


def _set_up_writer(connection: Any, _: object) -> None:
    for pragma in (
        "auto_vacuum=INCREMENTAL",  # of a new file only; see upkeep
        "journal_mode=WAL",
        "synchronous=FULL",
        "wal_autocheckpoint=2000",
        "journal_size_limit=67108864",
        "cache_size=-32000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _set_up_reader(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA cache_size=-32000")


def _begin_writing(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _postgres(address: str, is_writing: bool) -> Database:
    if not address.startswith(_POSTGRES):
        raise ConfigError(f"{address!r} is no database: write postgresql://USER@HOST/NAME in [ledger], or leave it out")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError(f"a ledger in PostgreSQL needs a driver: {install_command('postgres')}") from None
    try:
        url = sa.make_url("postgresql+psycopg://" + address.partition("://")[2])
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ConfigError(f"the ledger's database is no address that can be read: {error}") from error
    engine = sa.create_engine(
        url,
        pool_size=4,
        pool_pre_ping=True,
        # A writer must see, behind the lock that it waited for, what was committed meanwhile; a reader one state.
        isolation_level="READ COMMITTED" if is_writing else "REPEATABLE READ",
        connect_args={"connect_timeout": 5, "application_name": "tokenworks"},
    )
    return Database(engine, url.render_as_string(hide_password=True).replace("+psycopg", ""), None)
