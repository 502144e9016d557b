"""Roll-up and retention, in steps small enough that taking in never waits long for one.

- An hour that has been over for `GRACE_NS` is made of its minutes, a day of its hours.
- Whole records (waterfall, tags, legs, single gaps) and spans go after `detail_days`, and cells of minutes a day later,
  so that a window's ends are exact to the minute for longer than to the second.
- Compact records, incidents and gaps go after `record_days`. Cells of hours and days stay.
- Samples of workers and stores are thinned to the first and the last of each minute after a day, of each hour after
  `detail_days` more. What was spent in a whole minute, and later in a whole hour, stays the same: what an edge lies
  between is kept.

`now_ns` is the caller's, who knows whether the clock can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.record import Gap
from tokenworks.observe.store import cell_rows
from tokenworks.observe.store.endings import forget
from tokenworks.observe.store.marks import read_marks, write_marks
from tokenworks.observe.store.packing import Unreadable, unpack_detail, unpack_record_id
from tokenworks.observe.store.periods import DAY_NS, HOUR_NS, LENGTH_NS, MINUTE_NS, Level, Marks, floor
from tokenworks.observe.store.schema import (
    cells,
    details,
    events,
    lives,
    names,
    records,
    spans,
    store_samples,
    worker_samples,
)
from tokenworks.observe.store.take_in import add_events, hash_of, names_of

GRACE_NS: Final = 5 * MINUTE_NS
ROWS_AT_ONCE: Final = 2000
_SECOND_NS: Final = 10**9


class Upkeep:
    """What is due at a moment."""

    def __init__(self, settings: LedgerSettings) -> None:
        self._record_ns = int(settings.record_days * DAY_NS)
        self._detail_ns = min(int(settings.detail_days * DAY_NS), self._record_ns)

    def turn(self, connection: sa.Connection, now_ns: int) -> bool:
        """One step of each kind; whether there may be another to do."""
        marks = read_marks(connection)
        following = [
            _roll_up_hour(connection, marks, now_ns),
            _roll_up_day(connection, marks, now_ns),
            self._drop_details(connection, marks, now_ns),  # before the records: it knows their names
            self._drop_records(connection, now_ns),
            self._drop_minutes(connection, marks, now_ns),
            _thin(connection, "samples_by_minute", marks.samples_by_minute, now_ns - DAY_NS, MINUTE_NS),
            _thin(connection, "samples_by_hour", marks.samples_by_hour, now_ns - DAY_NS - self._detail_ns, HOUR_NS),
        ]
        return any(following)

    def _drop_details(self, connection: sa.Connection, marks: Marks, now_ns: int) -> bool:
        until = max(marks.details_from, floor(now_ns - self._detail_ns, MINUTE_NS))
        if until > marks.details_from:
            write_marks(connection, {"details_from": until})
        connection.execute(spans.delete().where(spans.c.started_ns < until))
        gone = connection.execute(_oldest(details, until)).all()
        if gone:
            _delete_names(connection, _unwanted(gone, _names_in_detail))
            connection.execute(details.delete().where(details.c.ended_ns <= gone[-1][0]))
        return len(gone) == ROWS_AT_ONCE

    def _drop_records(self, connection: sa.Connection, now_ns: int) -> bool:
        until = now_ns - self._record_ns
        connection.execute(events.delete().where(events.c.until_ns < until))
        gone = connection.execute(_oldest(records, until)).all()
        if gone:
            _delete_names(connection, _unwanted(gone, _name_of_record))
            forget(connection, gone[-1][0])
            connection.execute(records.delete().where(records.c.ended_ns <= gone[-1][0]))
        return len(gone) == ROWS_AT_ONCE

    def _drop_minutes(self, connection: sa.Connection, marks: Marks, now_ns: int) -> bool:
        """A day of them at once."""
        first = cell_rows.first_start(connection, Level.MINUTE, 0)
        due = min(floor(now_ns - self._detail_ns - DAY_NS, HOUR_NS), marks.hours_until)
        if first is None or first >= due:
            return False
        until = min(due, floor(first, HOUR_NS) + DAY_NS)
        write_marks(connection, {"minutes_from": max(until, marks.minutes_from)})
        gone = (cells.c.level == int(Level.MINUTE), cells.c.start_s < until // _SECOND_NS)
        connection.execute(cells.delete().where(*gone))
        return until < due


def _roll_up_hour(connection: sa.Connection, marks: Marks, now_ns: int) -> bool:
    first = cell_rows.first_start(connection, Level.MINUTE, marks.hours_until)
    if first is None:
        return False
    hour_ns = floor(first, HOUR_NS)
    if hour_ns + HOUR_NS + GRACE_NS > now_ns:
        return False
    _made(connection, Level.HOUR, hour_ns, "hours_until")
    return True


def _roll_up_day(connection: sa.Connection, marks: Marks, now_ns: int) -> bool:
    first = cell_rows.first_start(connection, Level.HOUR, marks.days_until)
    if first is None:
        return False
    end_ns = floor(first, DAY_NS) + DAY_NS
    open_minute = cell_rows.first_start(connection, Level.MINUTE, read_marks(connection).hours_until)
    if end_ns + GRACE_NS > now_ns or (open_minute is not None and open_minute < end_ns):
        return False
    _made(connection, Level.DAY, end_ns - DAY_NS, "days_until")
    return True


def _made(connection: sa.Connection, level: Level, start_ns: int, mark: str) -> None:
    end_ns = start_ns + LENGTH_NS[level]
    add_events(
        connection, [Gap(start_ns, end_ns, 1, trouble) for trouble in cell_rows.roll_up(connection, level, start_ns)]
    )
    write_marks(connection, {mark: end_ns})


def _oldest(table: sa.Table, until_ns: int) -> sa.Select[Any]:
    statement = sa.select(table.c.ended_ns, table.c.body).where(table.c.ended_ns < until_ns)
    return statement.order_by(table.c.ended_ns).limit(ROWS_AT_ONCE)


def _names_in_detail(body: bytes) -> set[str]:
    """Those by which the record will no longer be asked for: its id stays, as long as the compact record does."""
    record = unpack_detail(body)[0].record
    return names_of(record) - {record.id}


def _name_of_record(body: bytes) -> set[str]:
    return {unpack_record_id(body)}


def _unwanted(gone: Iterable[Any], names_in: Callable[[bytes], set[str]]) -> list[dict[str, int]]:
    """Entries of names that lead to what goes: of rows of moment and body. Those of a body that cannot be read stay:
    they lead nowhere, and what the disk changed must not stop all retention.
    """
    unwanted: list[dict[str, int]] = []
    for ended_ns, body in gone:
        with suppress(Unreadable):
            unwanted += [{"gone_hash": hash_of(name), "gone_ns": ended_ns} for name in names_in(body)]
    return unwanted


def _delete_names(connection: sa.Connection, unwanted: list[dict[str, int]]) -> None:
    gone = (names.c.hash == sa.bindparam("gone_hash"), names.c.ended_ns == sa.bindparam("gone_ns"))
    if unwanted:
        connection.execute(names.delete().where(*gone), unwanted)


def _thin(connection: sa.Connection, mark: str, done_until: int, due: int, length_ns: int) -> bool:
    """Of a day of samples, keep the first and the last one of each `length_ns`: what lies around its edges."""
    start = done_until or _first_sample(connection)
    until = min(floor(due, HOUR_NS), start + DAY_NS)
    if not start or until <= start:
        return False
    for table, name, keys in (
        (worker_samples, worker_samples.c.life, sa.select(lives.c.id).where(lives.c.last_ns >= start)),
        (store_samples, store_samples.c.store, sa.select(store_samples.c.store).distinct()),
    ):
        at = table.c.at_ns
        those = (name.in_(keys.scalar_subquery()), at >= start, at < until)
        ends = [sa.select(end(at)).where(*those).group_by(name, at // length_ns) for end in (sa.func.min, sa.func.max)]
        connection.execute(table.delete().where(*those, *(at.not_in(kept) for kept in ends)))
    write_marks(connection, {mark: until})
    return until < floor(due, HOUR_NS)


def _first_sample(connection: sa.Connection) -> int:
    """The hour of the first one there is; 0: there is none."""
    firsts = [connection.execute(sa.select(sa.func.min(t.c.at_ns))).scalar() for t in (worker_samples, store_samples)]
    found = [first for first in firsts if first is not None]
    return floor(min(found), HOUR_NS) if found else 0
