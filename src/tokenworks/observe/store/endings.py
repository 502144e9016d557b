"""How records ended: which of them are wanted, in which order, without looking at all the others.

Most requests end well. Those that did not are listed by how they ended (`failures`), some 25 bytes each, so that one
among ten million is found at once. A record that ended well is one that is not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from tokenworks.contract.record import Record
from tokenworks.observe.ledger import FAILED, OK, Window
from tokenworks.observe.store.asked import Asked
from tokenworks.observe.store.dictionaries import clean
from tokenworks.observe.store.schema import dimensions, failures, records


def add(connection: sa.Connection, ended: Iterable[tuple[int, Record]]) -> None:
    """List those that did not end well, each at the moment that is its key."""
    rows = [
        {"outcome": clean(record.outcome), "ended_ns": ended_ns, "e2e_ns": record.e2e_ns}
        for ended_ns, record in ended
        if record.outcome != OK
    ]
    if rows:
        connection.execute(failures.insert(), rows)


def forget(connection: sa.Connection, until_ns: int) -> None:
    """Records up to this key are no longer kept, those among them whose body cannot be read."""
    connection.execute(failures.delete().where(failures.c.ended_ns <= until_ns))


def keys(window: Window, question: Asked, slowest: bool, outcome: str) -> sa.Select[tuple[int]]:
    """The keys of records of these dimensions that ended so ("": anyhow), the latest or the slowest first."""
    table = failures if outcome not in ("", OK) else records
    order = table.c.e2e_ns if slowest else table.c.ended_ns
    times = (table.c.ended_ns >= window.start_ns, table.c.ended_ns < window.end_ns)
    statement = sa.select(table.c.ended_ns).where(*times, *_ended_as(window, outcome)).order_by(order.desc())
    if not question.where:
        return statement
    if table is failures:
        statement = statement.join(records, records.c.ended_ns == failures.c.ended_ns)
    wanted = (dimensions.c[name] == clean(value) for name, value in question.where.items())
    return statement.join(dimensions, dimensions.c.id == records.c.dimension).where(*wanted)


def slow_keys(window: Window, question: Asked, number: int) -> sa.Select[tuple[int]]:
    """Of the slowest `number` records those that ended well; a look into the list for each record takes as long again.

    Whoever finds too few must ask for all `keys`.
    """
    slowest = keys(window, question, True, "").limit(number).subquery()
    statement = sa.select(records.c.ended_ns).join(slowest, slowest.c.ended_ns == records.c.ended_ns)
    return statement.where(*_ended_as(window, OK)).order_by(records.c.e2e_ns.desc())


def num_failures(connection: sa.Connection, window: Window) -> dict[str, int]:
    """How many records of a window did not end well, by how they ended."""
    times = (failures.c.ended_ns >= window.start_ns, failures.c.ended_ns < window.end_ns)
    statement = sa.select(failures.c.outcome, sa.func.count()).where(*times).group_by(failures.c.outcome)
    return {outcome: int(number) for outcome, number in connection.execute(statement)}


def _ended_as(window: Window, outcome: str) -> Sequence[sa.ColumnElement[bool]]:
    if outcome in ("", FAILED):
        return []
    if outcome == OK:
        times = (failures.c.ended_ns >= window.start_ns, failures.c.ended_ns < window.end_ns)
        return [records.c.ended_ns.not_in(sa.select(failures.c.ended_ns).where(*times))]
    return [failures.c.outcome == clean(outcome)]
