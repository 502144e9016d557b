"""What a database said, as one of our errors: busy (it may work the next moment), damaged, or neither."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tokenworks.contract.errors import LedgerBusy, LedgerDamaged, LedgerError

_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_BUSY: Final = {
    sqlite3.SQLITE_BUSY: "another program holds it locked",
    sqlite3.SQLITE_LOCKED: "another program holds it locked",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened: look at the folder's owner and mode",
    sqlite3.SQLITE_READONLY: "its file may not be written: look at its owner and mode",
}


@contextmanager
def told(where: str) -> Iterator[None]:
    """Raise LedgerError, or a kind of it, for what the database at `where` raises."""
    try:
        yield
    except DBAPIError as error:
        raise _described(where, error.orig, error.connection_invalidated) from error
    except sqlite3.Error as error:
        raise _described(where, error, False) from error
    except SQLAlchemyError as error:
        raise LedgerError(f"the ledger at {where} failed: {error}") from error


def _described(where: str, cause: BaseException | None, is_cut: bool) -> LedgerError:
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the primary code; the rest says more than a person needs
    if code in _DAMAGED:
        return LedgerDamaged(f"the ledger at {where} is damaged ({cause}): `tokenworks serve` moves it aside")
    if code in _BUSY:
        return LedgerBusy(f"the ledger at {where} cannot be used now: {_BUSY[code]} ({cause})")
    if isinstance(cause, sqlite3.Error):
        return LedgerError(f"the ledger at {where} failed: {cause}")
    if is_cut or getattr(cause, "sqlstate", None) is None:
        return LedgerBusy(f"the ledger at {where} cannot be reached: {_first_line(cause)}")
    return LedgerError(f"the ledger at {where} failed: {_first_line(cause)}")


def _first_line(cause: BaseException | None) -> str:
    return str(cause).strip().partition("\n")[0]
