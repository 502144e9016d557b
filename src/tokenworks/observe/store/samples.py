"""Samples of workers and stores: counters that start again with each life, as what happened in a window.

A worker's life is named by its start. Its counters only rise, and `wall_ns`, by its own monotonic clock, with them: a
sample that is no further than the last one is old news (several gateways hear of the same worker) and is left out. The
gateway's wall clock may step back; a sample is then placed where the one before it was, a nanosecond later. So what a
life spent while the clock repeated itself counts at the moment of the step, and no time is negative or counted twice.

What a life spent in a window is its last sample in it, less its last one before it (or nothing, where it began in it).
So windows that touch add up to the whole, exactly. Stores are told of by several gateways too: what is not newer than
the last sample of the same life is left out, and so is what is older than the beginning of the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from statistics import median_low
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import StoreSample, WorkerSample, WorkerUse
from tokenworks.observe.ledger import StoreStretch, Window, WorkerStretch
from tokenworks.observe.store.dictionaries import clean
from tokenworks.observe.store.packing import Unreadable, pack, unpack
from tokenworks.observe.store.schema import lives, store_samples, worker_samples

SILENCE_NS: Final = 2 * 3600 * 10**9  # thinned samples are an hour apart; what is longer silent was not there
Name = TypeVar("Name", Tier, str)


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


def worker_stretches(connection: sa.Connection, window: Window) -> list[WorkerStretch]:
    """By the beginning of each life's part in the window."""
    return _in_order(stretch for _, stretch in _stretches(connection, window, sa.literal(0)))


def worker_series(connection: sa.Connection, window: Window, step_ns: int) -> dict[int, list[WorkerStretch]]:
    """As `worker_stretches`, for each step in which a worker was heard of; by its start, a multiple of its length."""
    found: dict[int, list[WorkerStretch]] = {}
    for start_ns, stretch in _stretches(connection, window, worker_samples.c.at_ns // step_ns * step_ns):
        found.setdefault(start_ns, []).append(stretch)
    return {start_ns: _in_order(stretches) for start_ns, stretches in found.items()}


def store_stretches(connection: sa.Connection, window: Window) -> list[StoreStretch]:
    """By name. Counters of the whole window, restarts of the store included."""
    columns = store_samples.c
    stores = connection.execute(sa.select(columns.store).distinct().order_by(columns.store)).scalars().all()
    found = []
    for store in stores:
        before = sa.select(sa.func.max(columns.at_ns)).where(columns.store == store, columns.at_ns < window.start_ns)
        from_ns = sa.func.coalesce(before.scalar_subquery(), window.start_ns)
        times = (columns.at_ns >= from_ns, columns.at_ns < window.end_ns)
        statement = sa.select(columns.at_ns, columns.body).where(columns.store == store, *times).order_by(columns.at_ns)
        samples = [(at_ns, unpack(StoreSample, body)) for at_ns, body in connection.execute(statement)]
        if samples and samples[-1][0] >= window.start_ns:
            found.append(_store_stretch(samples, window))
    return found


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


def _stretches(
    connection: sa.Connection, window: Window, step: sa.ColumnElement[int]
) -> Iterator[tuple[int, WorkerStretch]]:
    """What each life did in each of the window's parts that `step` keeps apart, by life and time."""
    life, before = -1, None
    for row in connection.execute(_last_of_each(window, step)):
        if row.life != life:
            life, before = row.life, _before(connection, row.life, window.start_ns)
        last = unpack(WorkerSample, row.body)
        yield row.step, _stretch((row.at_ns, last), before, row)
        before = (row.at_ns, last)


def _last_of_each(window: Window, step: sa.ColumnElement[int]) -> sa.Select[Any]:
    """The last sample of each life in each step, with the means of all that it has there."""
    columns = worker_samples.c
    living = sa.select(lives.c.id).where(lives.c.last_ns >= window.start_ns)
    steps = (
        sa.select(
            columns.life,
            step.label("step"),
            sa.func.max(columns.at_ns).label("at_ns"),
            sa.func.avg(columns.running).label("running"),
            sa.func.avg(columns.waiting).label("waiting"),
            sa.func.avg(columns.used_share).label("used_share"),
        )
        .where(columns.life.in_(living), columns.at_ns >= window.start_ns, columns.at_ns < window.end_ns)
        .group_by(columns.life, sa.text("step"))
        .subquery()
    )
    is_last = sa.and_(columns.life == steps.c.life, columns.at_ns == steps.c.at_ns)
    return (
        sa.select(steps, columns.body).join_from(steps, worker_samples, is_last).order_by(steps.c.life, steps.c.at_ns)
    )


def _before(connection: sa.Connection, life: int, until_ns: int) -> tuple[int, WorkerSample] | None:
    """The last sample of a life before a moment; None: it had none."""
    columns = worker_samples.c
    statement = sa.select(columns.at_ns, columns.body).where(columns.life == life, columns.at_ns < until_ns)
    found = connection.execute(statement.order_by(columns.at_ns.desc()).limit(1)).first()
    return None if found is None else (found.at_ns, unpack(WorkerSample, found.body))


def _stretch(
    end: tuple[int, WorkerSample], before: tuple[int, WorkerSample] | None, means: sa.Row[Any]
) -> WorkerStretch:
    (last_ns, last), first = end, before[1] if before else None
    return WorkerStretch(
        worker=last.worker,
        model=last.model,
        version=last.version,
        device=last.device,
        from_ns=last_ns - last.use.wall_ns if before is None else before[0],
        until_ns=last_ns,
        use=_less(last.use, first.use if first else WorkerUse()),
        price_per_hour=last.price_per_hour,
        watts=last.watts,
        peak_flops=last.peak_flops,
        peak_bytes_per_s=last.peak_bytes_per_s,
        running=float(means.running),
        waiting=float(means.waiting),
        used_blocks_share=float(means.used_share),
        preemptions=max(0, last.preemptions - (first.preemptions if first else 0)),
        evictions=max(0, last.evictions - (first.evictions if first else 0)),
    )


def _in_order(stretches: Iterable[WorkerStretch]) -> list[WorkerStretch]:
    return sorted(stretches, key=lambda stretch: (stretch.from_ns, stretch.worker))


def _less(last: WorkerUse, first: WorkerUse) -> WorkerUse:
    """What a worker used between two samples of one life."""
    return WorkerUse(
        started_ns=last.started_ns,
        wall_ns=last.wall_ns - first.wall_ns,
        step_ns={work: spent_ns - first.step_ns.get(work, 0) for work, spent_ns in last.step_ns.items()},
        between_ns=last.between_ns - first.between_ns,
        idle_ns=last.idle_ns - first.idle_ns,
        flops=last.flops - first.flops,
        read_bytes=last.read_bytes - first.read_bytes,
        cpu_s=last.cpu_s - first.cpu_s,
        rss_bytes=last.rss_bytes,
        disk_read_bytes=last.disk_read_bytes - first.disk_read_bytes,
        disk_write_bytes=last.disk_write_bytes - first.disk_write_bytes,
        energy_j=None if last.energy_j is None else last.energy_j - (first.energy_j or 0.0),
    )


def _store_stretch(samples: list[tuple[int, StoreSample]], window: Window) -> StoreStretch:
    """From the last sample before the window, where there is one, to the last in it."""
    last = samples[-1][1]
    byte_s: dict[Tier, float] = {}
    counts: dict[str, dict[Any, int]] = {"hits": {}, "evictions": {}, "faults": {}, "misses": {}}
    for (at_ns, sample), (next_ns, following) in pairwise(samples):
        is_restart = _has_restarted(sample, following)
        start = StoreSample(0, sample.store) if is_restart else sample
        _count(counts, start, following)
        held_s = max(0, next_ns - max(at_ns, window.start_ns)) / 1e9
        if not is_restart and next_ns - at_ns <= SILENCE_NS:
            for tier, used_bytes in sample.used_bytes.items():
                byte_s[tier] = byte_s.get(tier, 0.0) + used_bytes * held_s
    return StoreStretch(
        store=last.store,
        byte_s=byte_s,
        used_bytes=dict(last.used_bytes),
        limit_bytes=dict(last.limit_bytes),
        hits=counts["hits"],
        evictions=counts["evictions"],
        faults=counts["faults"],
        misses=counts["misses"].get("", 0),
        read_bytes_per_s=_speeds([sample for at_ns, sample in samples if at_ns >= window.start_ns]),
    )


def _speeds(samples: list[StoreSample]) -> dict[Tier, float]:
    """Of each tier that was measured, the middle one, and of two the slower."""
    told: dict[Tier, list[float]] = {}
    for sample in samples:
        for tier, bytes_per_s in sample.read_bytes_per_s.items():
            told.setdefault(tier, []).append(bytes_per_s)
    return {tier: median_low(speeds) for tier, speeds in told.items()}


def _has_restarted(sample: StoreSample, following: StoreSample) -> bool:
    if sample.started_ns and following.started_ns:
        return sample.started_ns != following.started_ns
    pairs = [(sample.hits, following.hits), (sample.evictions, following.evictions)]
    return following.misses < sample.misses or any(
        after.get(tier, 0) < before[tier] for before, after in pairs for tier in before
    )


def _count(counts: dict[str, dict[Any, int]], start: StoreSample, end: StoreSample) -> None:
    _rise(counts["hits"], start.hits, end.hits)
    _rise(counts["evictions"], start.evictions, end.evictions)
    _rise(counts["faults"], start.faults, end.faults)
    _rise(counts["misses"], {"": start.misses}, {"": end.misses})


def _rise(total: dict[Name, int], start: Mapping[Name, int], end: Mapping[Name, int]) -> None:
    for name, count in end.items():
        total[name] = total.get(name, 0) + max(0, count - start.get(name, 0))
