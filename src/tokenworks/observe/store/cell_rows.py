"""Rows of cells: how records are added to those of their minute, and how periods are merged into longer ones.

Each record is in the cell of its minute and dimension; for each of its tags it is in another one, of that tag's key and
value too. An hour is merged from its minutes when it is over, a day from its hours.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from tokenworks.observe.cell import Cell, merged
from tokenworks.observe.store.packing import Unreadable, pack, unpack
from tokenworks.observe.store.periods import LENGTH_NS, Level, Marks, floor
from tokenworks.observe.store.schema import cells
from tokenworks.observe.store.upsert import upsert

log = logging.getLogger(__name__)

NO_TAG: Final = 0
_SECOND_NS: Final = 10**9
_AT_ONCE: Final = 500  # rows that one statement asks for


class CellKey(NamedTuple):
    """Which cell, of one level."""

    tag_key: int
    start_ns: int
    dimension: int
    tag_value: int


Cells = Mapping[CellKey, Sequence[Cell]]


def add(connection: sa.Connection, minutes: Cells, marks: Marks) -> list[str]:
    """Add to the cells of minutes, and of hours and days that are made already; what could not be read, in words."""
    troubles = _merge_in(connection, Level.MINUTE, minutes)
    for level, made_until in ((Level.HOUR, marks.hours_until), (Level.DAY, marks.days_until)):
        late: dict[CellKey, list[Cell]] = defaultdict(list)
        for key, parts in minutes.items():
            start_ns = floor(key.start_ns, LENGTH_NS[level])
            if start_ns < made_until:
                late[key._replace(start_ns=start_ns)] += parts
        troubles += _merge_in(connection, level, late)
    return troubles


def roll_up(connection: sa.Connection, level: Level, start_ns: int) -> list[str]:
    """Make the cells of one hour, or day, from its minutes, or hours; what could not be read, in words."""
    rows = _rows(connection, Level(level - 1), start_ns, start_ns + LENGTH_NS[level])
    parts: dict[CellKey, list[Cell]] = defaultdict(list)
    troubles: list[str] = []
    for key, body in rows:
        parts[key._replace(start_ns=start_ns)] += _read(body, Level(level - 1), key, troubles)
    return troubles + _merge_in(connection, level, parts)


def first_start(connection: sa.Connection, level: Level, from_ns: int) -> int | None:
    """Where the first cell of this level begins, from `from_ns` on."""
    statement = sa.select(sa.func.min(cells.c.start_s)).where(
        cells.c.level == level, cells.c.tag_key == NO_TAG, cells.c.start_s >= from_ns // _SECOND_NS
    )
    found = connection.execute(statement).scalar()
    return None if found is None else int(found) * _SECOND_NS


def _merge_in(connection: sa.Connection, level: Level, parts: Cells) -> list[str]:
    troubles: list[str] = []
    total = {key: list(found) for key, found in parts.items()}
    for key, body in _existing(connection, level, parts):
        if key in total:
            total[key] += _read(body, level, key, troubles)
    if total:
        rows = [_row(level, key, found[0] if len(found) == 1 else merged(found)) for key, found in total.items()]
        upsert(connection, cells, rows, ("level", "tag_key", "start_s", "dimension", "tag_value"))
    return troubles


def _existing(connection: sa.Connection, level: Level, parts: Iterable[CellKey]) -> Iterable[tuple[CellKey, bytes]]:
    """Rows that may be among those of `parts`: of the same tag key and start."""
    wanted: dict[tuple[int, int], set[int]] = defaultdict(set)
    for key in parts:
        wanted[key.tag_key, key.start_ns].add(key.dimension)
    for (tag_key, start_ns), dimensions in wanted.items():
        of_these = sorted(dimensions)
        for first in range(0, len(of_these), _AT_ONCE):
            some = cells.c.dimension.in_(of_these[first : first + _AT_ONCE])
            yield from _rows(connection, level, start_ns, start_ns + _SECOND_NS, cells.c.tag_key == tag_key, some)


def _rows(
    connection: sa.Connection, level: Level, start_ns: int, end_ns: int, *where: sa.ColumnElement[bool]
) -> Iterable[tuple[CellKey, bytes]]:
    columns = (cells.c.tag_key, cells.c.start_s, cells.c.dimension, cells.c.tag_value, cells.c.body)
    times = (cells.c.start_s >= start_ns // _SECOND_NS, cells.c.start_s < end_ns // _SECOND_NS)
    statement = sa.select(*columns).where(cells.c.level == level, *times, *where)
    for tag_key, start_s, dimension, tag_value, body in connection.execute(statement):
        yield CellKey(tag_key, start_s * _SECOND_NS, dimension, tag_value), body


def _row(level: Level, key: CellKey, cell: Cell) -> dict[str, object]:
    return {
        "level": int(level),
        "tag_key": key.tag_key,
        "start_s": key.start_ns // _SECOND_NS,
        "dimension": key.dimension,
        "tag_value": key.tag_value,
        "body": pack(cell),
    }


def _read(body: bytes, level: Level, key: CellKey, troubles: list[str]) -> list[Cell]:
    """The cell of a body, or none where the disk has changed it: then the rest must go on all the same."""
    try:
        return [unpack(Cell, body)]
    except Unreadable as error:
        log.error("the cell %s of %s is damaged (%s): what was in it is lost", key, level.name, error)
        if key.tag_key == NO_TAG:
            troubles.append(f"a cell of one {level.name.lower()} is damaged: {error}")
        return []
