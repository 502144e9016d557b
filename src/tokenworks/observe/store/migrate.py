"""Brings a database to the schema that this code knows, by the steps in `migrations/versions`, all or nothing.

Alembic is imported only where there is something to do: opening a ledger that is up to date costs one query.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tokenworks.contract.errors import LedgerError, LedgerMissing, LedgerTooNew
from tokenworks.observe.store.database import Database
from tokenworks.observe.store.schema import VERSIONS

log = logging.getLogger(__name__)

STEPS: Final = Path(__file__).parent / "migrations"


def check_version(database: Database) -> None:
    """Raises LedgerError where the database is not as this code reads it, and says what to do."""
    with database.reading() as connection:
        found = version_of(connection)
    if found is None:
        raise LedgerMissing(f"there is no ledger at {database.where} yet: `tokenworks serve` begins one")
    _refuse_newer(found, database.where)
    if found != VERSIONS[-1]:
        raise LedgerError(f"the ledger at {database.where} is of an older version: `tokenworks serve` brings it up")


def upgrade(database: Database) -> None:
    """Make the tables, or change them to what this code knows; raises LedgerError."""
    with database.reading() as connection:
        found = version_of(connection)
    if found is not None:
        _refuse_newer(found, database.where)
    if found == VERSIONS[-1]:
        return
    with database.writing() as connection:
        _run_steps(connection)
    log.info("the ledger at %s is at version %s now", database.where, VERSIONS[-1])


def version_of(connection: sa.Connection) -> str | None:
    """The version of the schema; None: there are no tables."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _refuse_newer(found: str, where: str) -> None:
    if found not in VERSIONS:
        raise LedgerTooNew(
            f"the ledger at {where} was written by a newer version of Tokenworks (its schema is {found}, this one's "
            f"{VERSIONS[-1]}): install that version, or set another path in [ledger]"
        )


def _run_steps(connection: sa.Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # importing it tells of its plug-ins; the version is ours
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    steps = ScriptDirectory(str(STEPS))

    def towards_head(revision: Any, _: object) -> Any:
        # As alembic.command.upgrade does, which wants files of its own.
        return steps._upgrade_revs(VERSIONS[-1], revision)

    with EnvironmentContext(Config(), steps, fn=towards_head) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
