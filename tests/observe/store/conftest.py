"""Ledgers in a new SQLite file, and in a real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tokenworks.contract.config import LedgerSettings
from tokenworks.observe.store import SqlLedger, open_ledger

_USERS = ("postgres", "nobody")  # the server refuses to run as root


class PostgresServer:
    """A server on a socket of its own, without fsync: only the machine's death would show it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._user = next((user for user in _USERS if _is_user(user)), None) if os.geteuid() == 0 else None
        self._databases = count()
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "tokenworks", "-E", "UTF8", "--no-sync", "-N")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses= -c fsync=off -k {self._folder}"
        waiting = ("-w", "-t", "300")  # seconds, on a busy machine
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-l", f"{self._folder}/log", *waiting, "-o", options, "start")

    def stop(self) -> None:
        """At once, cutting whoever is connected."""
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """Its address."""
        name = f"ledger{next(self._databases)}"
        self._run("psql", "-h", str(self._folder), "-U", "tokenworks", "-c", f"CREATE DATABASE {name}", "template1")
        return f"postgresql://tokenworks@/{name}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd=self._folder)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: `apt-get install postgresql`, or your system's package")
    with tempfile.TemporaryDirectory(prefix="tokenworks-pg-") as folder:  # short: a socket's path has 107 characters
        Path(folder).chmod(0o755)
        server = PostgresServer(programs, Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerSettings:
    """Of a ledger that does not exist yet."""
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    return LedgerSettings(path=str(tmp_path), database=server.new_database() if server else "")


@pytest.fixture
def opened() -> Iterator[Callable[..., SqlLedger]]:
    """Opens ledgers, and closes them in the end."""
    ledgers: list[SqlLedger] = []

    def open_one(settings: LedgerSettings, *, is_writing: bool = True) -> SqlLedger:
        ledgers.append(open_ledger(settings, is_writing=is_writing))
        return ledgers[-1]

    yield open_one
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(settings: LedgerSettings, opened: Callable[..., SqlLedger]) -> SqlLedger:
    return opened(settings)


def _programs() -> Path | None:
    found = [Path(path).resolve().parent for path in [shutil.which("initdb")] if path]
    return next(iter([*found, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]), None)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
