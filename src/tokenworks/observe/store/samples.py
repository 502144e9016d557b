"""Samples of workers and stores on their way in: counters that start again with each life, told by several gateways.

A worker's life is named by its start. Its counters only rise, and `wall_ns`, by its own monotonic clock, with them: a
sample that is no further than the last one is old news (several gateways hear of the same worker) and is left out. The
gateway's wall clock may step back; a sample is then placed where the one before it was, a nanosecond later. So what a
life spent while the clock repeated itself counts at the moment of the step, and no time is negative or counted twice.

Stores are told of by several gateways too: what is not newer than the last sample of the same life is left out, and so
is what is older than the beginning of the next one. What a window comes to is `worker_stretches` and `store_stretches`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from tokenworks.contract.record import StoreSample, WorkerSample
from tokenworks.observe.store.dictionaries import clean
from tokenworks.observe.store.packing import Unreadable, pack, unpack
from tokenworks.observe.store.schema import lives, store_samples, worker_samples


def add_worker_samples(connection: sa.Connection, samples: Iterable[WorkerSample]) -> None:
    """In the order in which they were written."""
    known: dict[tuple[str, int], dict[str, Any]] = {}
    rows = []
    for sample in samples:
        name = (clean(sample.worker), sample.use.started_ns)
        if name not in known:
            known[name] = _life(connection, *name)
        life = known[name]
        if sample.use.wall_ns <= life["wall_ns"]:
            continue
        life["wall_ns"], life["last_ns"] = sample.use.wall_ns, max(sample.at_ns, life["last_ns"] + 1)
        rows.append(_worker_row(life, sample))
    if rows:
        connection.execute(worker_samples.insert(), rows)
        statement = lives.update().where(lives.c.id == sa.bindparam("life"))
        changes = [{"life": life["id"], "last": life["last_ns"], "wall": life["wall_ns"]} for life in known.values()]
        connection.execute(statement.values(last_ns=sa.bindparam("last"), wall_ns=sa.bindparam("wall")), changes)


def add_store_samples(connection: sa.Connection, samples: Iterable[StoreSample]) -> None:
    """In the order in which they were written."""
    last: dict[str, tuple[int, StoreSample]] = {}
    rows = []
    for sample in samples:
        store = clean(sample.store)
        if store not in last:
            last[store] = _last_of_store(connection, store)
        at_ns, before = last[store]
        if _is_old_news(sample, before, at_ns):
            continue
        at_ns = max(sample.at_ns, at_ns + 1)
        last[store] = at_ns, sample
        rows.append({"store": store, "at_ns": at_ns, "body": pack(sample)})
    if rows:
        connection.execute(store_samples.insert(), rows)


def _last_of_store(connection: sa.Connection, store: str) -> tuple[int, StoreSample]:
    columns = store_samples.c
    statement = sa.select(columns.at_ns, columns.body).where(columns.store == store).order_by(columns.at_ns.desc())
    row = connection.execute(statement.limit(1)).first()
    if row is None:
        return 0, StoreSample(0, store)
    try:
        return row[0], unpack(StoreSample, row[1])
    except Unreadable:  # the next ones must be taken in all the same
        return row[0], StoreSample(0, store)


def _is_old_news(sample: StoreSample, last: StoreSample, last_ns: int) -> bool:
    """Whether another gateway has told of that moment, or of a later one, or of a life that came after."""
    if sample.started_ns == last.started_ns:
        return bool(sample.started_ns) and sample.alive_ns <= last.alive_ns
    return sample.started_ns < last.started_ns and sample.at_ns < last_ns


def _life(connection: sa.Connection, worker: str, started_ns: int) -> dict[str, Any]:
    wanted = (lives.c.worker == worker, lives.c.started_ns == started_ns)
    row = connection.execute(sa.select(lives).where(*wanted)).mappings().first()
    if row is not None:
        return dict(row)
    last = connection.execute(sa.select(sa.func.max(lives.c.id))).scalar()
    life = {"id": (last or 0) + 1, "worker": worker, "started_ns": started_ns, "last_ns": 0, "wall_ns": -1}
    connection.execute(lives.insert(), life)
    return life


def _worker_row(life: Mapping[str, Any], sample: WorkerSample) -> dict[str, object]:
    return {
        "life": life["id"],
        "at_ns": life["last_ns"],
        "running": sample.running,
        "waiting": sample.waiting,
        "used_share": 1 - sample.free_blocks / sample.total_blocks if sample.total_blocks else 0.0,
        "body": pack(sample),
    }
