"""What prices were stated, and from when on each of them held; a row for each change."""

from __future__ import annotations

import sqlalchemy as sa

from tokenworks.contract.config import CostSettings
from tokenworks.observe.ledger import Window
from tokenworks.observe.store.packing import Unreadable, pack, unpack
from tokenworks.observe.store.schema import prices


def note(connection: sa.Connection, cost: CostSettings, at_ns: int) -> None:
    """From `at_ns` on these prices hold. A clock that stepped back does not change what is past."""
    last = connection.execute(sa.select(prices).order_by(prices.c.from_ns.desc()).limit(1)).first()
    if last is None:
        connection.execute(prices.insert(), {"from_ns": at_ns, "body": pack(cost)})
    elif _prices(last.body) != cost:
        connection.execute(prices.insert(), {"from_ns": max(at_ns, last.from_ns + 1), "body": pack(cost)})


def _prices(body: bytes) -> CostSettings | None:
    """None: the disk has changed them, so that they must be said anew."""
    try:
        return unpack(CostSettings, body)
    except Unreadable:
        return None


def held_in(connection: sa.Connection, window: Window) -> list[tuple[int, CostSettings]]:
    """What held when the window began, and every change in it."""
    first = sa.select(sa.func.max(prices.c.from_ns)).where(prices.c.from_ns <= window.start_ns).scalar_subquery()
    times = (prices.c.from_ns >= sa.func.coalesce(first, window.start_ns), prices.c.from_ns < window.end_ns)
    statement = sa.select(prices.c.from_ns, prices.c.body).where(*times).order_by(prices.c.from_ns)
    return [(from_ns, unpack(CostSettings, body)) for from_ns, body in connection.execute(statement)]
