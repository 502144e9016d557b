"""Reads and writes how far roll-up and retention have come."""

from __future__ import annotations

import sqlalchemy as sa

from tokenworks.observe.store.periods import Marks
from tokenworks.observe.store.schema import marks
from tokenworks.observe.store.upsert import upsert


def read_marks(connection: sa.Connection) -> Marks:
    """All of them; 0 where nothing has been done yet."""
    found = {name: at_ns for name, at_ns in connection.execute(sa.select(marks.c.name, marks.c.at_ns))}
    return Marks(**{name: found.get(name, 0) for name in Marks._fields})


def write_marks(connection: sa.Connection, changed: dict[str, int]) -> None:
    """Some of them, by the names of the fields."""
    upsert(connection, marks, [{"name": name, "at_ns": at_ns} for name, at_ns in changed.items()], ("name",))
