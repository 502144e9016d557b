"""Numbers for texts: what cells are kept apart by (`Dimensions`), and keys and values of tags (`Words`).

Both grow by what clients send, so both are bounded: a text is cut at `MAX_CHARACTERS`, and of the tags in an hour only
so many get a number (`tag_limits`). Used inside a writing transaction only; `forget` after one that was rolled back,
since what was numbered in it is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from tokenworks.contract.record import Record
from tokenworks.observe.ledger import DIMENSIONS
from tokenworks.observe.store.schema import dimensions, words

MAX_CHARACTERS: Final = 256
MAX_CACHED: Final = 50_000
Combination = tuple[str, ...]  # in the order of DIMENSIONS


class Dimensions:
    """Number of each combination of scenario, tenant, model, version and worker."""

    def __init__(self) -> None:
        self._ids: dict[Combination, int] = {}

    def id_of(self, connection: sa.Connection, combination: Combination) -> int:
        """Its number; a new one if it is new."""
        found = self._ids.get(combination)
        if found is None:
            _bound(self._ids)
            values = dict(zip(DIMENSIONS, combination, strict=True))
            found = self._ids[combination] = _number(connection, dimensions, values)
        return found

    def forget(self) -> None:
        """Look everything up again."""
        self._ids.clear()


class Words:
    """Number of each text; 0 for none, which is never given to one."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def id_of(self, connection: sa.Connection, text: str) -> int:
        """Its number; a new one if it is new."""
        found = self._ids.get(text)
        if found is None:
            _bound(self._ids)
            found = self._ids[text] = _number(connection, words, {"text": text})
        return found

    def forget(self) -> None:
        """Look everything up again."""
        self._ids.clear()


def combination_of(record: Record) -> Combination:
    """What a record is counted under."""
    return tuple(clean(value) for value in (record.scenario, record.tenant, record.model, record.version)) + (
        clean(worker_of(record)),
    )


def worker_of(record: Record) -> str:
    """The worker that ended its last sequence; "" where none had it."""
    return max(record.legs, key=lambda leg: leg.start_ns + leg.span_ns).worker if record.legs else ""


def clean(text: str) -> str:
    """A text that both databases can hold: PostgreSQL takes no NUL."""
    return text[:MAX_CHARACTERS].replace("\0", "\ufffd")


def _number(connection: sa.Connection, table: sa.Table, values: Mapping[str, str]) -> int:
    wanted = [table.c[name] == value for name, value in values.items()]
    found = connection.execute(sa.select(table.c.id).where(*wanted)).scalar()
    if found is None:
        last = connection.execute(sa.select(sa.func.max(table.c.id))).scalar()
        found = (last or 0) + 1
        connection.execute(table.insert(), {"id": found, **values})
    return int(found)


def _bound(ids: dict[Combination, int] | dict[str, int]) -> None:
    if len(ids) >= MAX_CACHED:
        ids.clear()
