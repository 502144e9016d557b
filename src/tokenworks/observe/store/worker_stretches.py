"""What workers' lives came to in windows: between two samples, as if it had gone on evenly.

What a life spent in a window is what it had come to at the window's end, less what it had at its start, in whole
nanoseconds. So windows that touch add up to the whole, exactly, however short they are and wherever samples lie. What
came between two samples is spread over the time between them, or over as much of it as the life lived: a gateway's
clock may have jumped ahead, and a lost worker is told of once more when its lease is over. Before its first sample a
life lasted as long as that says; behind its last one nothing is known of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from tokenworks.contract.record import WorkerSample, WorkerUse
from tokenworks.observe.ledger import Window, WorkerStretch
from tokenworks.observe.store.packing import unpack
from tokenworks.observe.store.periods import floor
from tokenworks.observe.store.schema import lives, worker_samples


class Reached(NamedTuple):
    """What a life had come to at some moment, since its start."""

    use: WorkerUse
    preemptions: int = 0
    evictions: int = 0


class _Means(NamedTuple):
    """Over the samples of a stretch; where it has none, of the one behind it."""

    running: float
    waiting: float
    used_share: float


class _Knot(NamedTuple):
    """A sample of one life, with the means of its step where it is the step's first or last."""

    at_ns: int
    sample: WorkerSample
    means: _Means


def worker_stretches(connection: sa.Connection, window: Window) -> list[WorkerStretch]:
    """By the beginning of each life's part in the window."""
    parts = [window]
    return _in_order(each for _, each in _stretches(connection, window, parts, sa.literal(0)))


def worker_series(connection: sa.Connection, window: Window, step_ns: int) -> dict[int, list[WorkerStretch]]:
    """As `worker_stretches`, for each step in which a worker lived; by its start, a multiple of its length."""
    starts = range(floor(window.start_ns, step_ns), window.end_ns, step_ns)
    parts = [Window(max(start, window.start_ns), min(start + step_ns, window.end_ns)) for start in starts]
    found: dict[int, list[WorkerStretch]] = {}
    for number, stretch in _stretches(connection, window, parts, worker_samples.c.at_ns // step_ns):
        found.setdefault(starts[number], []).append(stretch)
    return {start_ns: _in_order(stretches) for start_ns, stretches in found.items()}


def reached(before: WorkerSample | None, before_ns: int, after: WorkerSample, after_ns: int, at_ns: int) -> Reached:
    """What a life had come to at a moment between two samples that follow each other; None: `after` is its first."""
    first = _of_sample(before) if before is not None else Reached(WorkerUse(after.use.started_ns))
    last = _of_sample(after)
    lived_ns = last.use.wall_ns - first.use.wall_ns
    from_ns = before_ns if before is not None else after_ns - lived_ns
    length_ns = min(lived_ns, after_ns - from_ns)
    passed_ns = at_ns - from_ns
    if passed_ns >= length_ns:
        return last
    return first if passed_ns <= 0 else _between(first, last, passed_ns, length_ns)


def _stretches(
    connection: sa.Connection, window: Window, parts: Sequence[Window], step: sa.ColumnElement[int]
) -> Iterator[tuple[int, WorkerStretch]]:
    """What each life did in each of the window's parts, which `step` keeps apart; by the part's number."""
    for knots in _lives_in(connection, window, step):
        times = [knot.at_ns for knot in knots]
        for number in _parts_of(knots, parts):
            stretch = _stretch(knots, times, parts[number])
            if stretch is not None:
                yield number, stretch


def _parts_of(knots: Sequence[_Knot], parts: Sequence[Window]) -> range:
    """The numbers of those in which a life may have been."""
    first, last = knots[0], knots[-1]
    born_ns = first.at_ns - first.sample.use.wall_ns
    ends = [part.end_ns for part in parts]
    return range(bisect_left(ends, born_ns), min(len(parts), bisect_left(ends, last.at_ns) + 1))


def _stretch(knots: Sequence[_Knot], times: Sequence[int], part: Window) -> WorkerStretch | None:
    """What a life did in one part; None: it was not there."""
    start, end = (_reached_at(knots, times, at_ns) for at_ns in part)
    following = knots[min(bisect_left(times, part.end_ns), len(knots) - 1)]
    inside = range(bisect_left(times, part.start_ns), bisect_left(times, part.end_ns))
    has_just_begun = bool(inside) and not end.use.wall_ns
    if end.use.wall_ns <= start.use.wall_ns and not has_just_begun:
        return None
    told = knots[inside[-1]] if inside else following
    last, means = following.sample, told.means
    born_ns = knots[0].at_ns - knots[0].sample.use.wall_ns
    return WorkerStretch(
        worker=last.worker,
        model=last.model,
        version=last.version,
        device=last.device,
        from_ns=part.start_ns if start.use.wall_ns else max(part.start_ns, born_ns),
        until_ns=min(part.end_ns, times[-1]),
        use=_less(end.use, start.use),
        price_per_hour=last.price_per_hour,
        watts=last.watts,
        peak_flops=last.peak_flops,
        peak_bytes_per_s=last.peak_bytes_per_s,
        running=means.running,
        waiting=means.waiting,
        used_blocks_share=means.used_share,
        preemptions=max(0, end.preemptions - start.preemptions),
        evictions=max(0, end.evictions - start.evictions),
        before=start.use,
    )


def _reached_at(knots: Sequence[_Knot], times: Sequence[int], at_ns: int) -> Reached:
    number = bisect_left(times, at_ns)
    if number == len(knots):
        return _of_sample(knots[-1].sample)
    before_ns, before = (times[number - 1], knots[number - 1].sample) if number else (0, None)
    return reached(before, before_ns, knots[number].sample, times[number], at_ns)


def _of_sample(sample: WorkerSample) -> Reached:
    return Reached(sample.use, sample.preemptions, sample.evictions)


def _between(first: Reached, last: Reached, passed: int, length: int) -> Reached:
    """`passed` / `length` of the way. Whole numbers are rounded down each, so that none of them ever falls."""

    def whole(start: int, end: int) -> int:
        return start + (end - start) * passed // length

    def part(start: float, end: float) -> float:
        return start + (end - start) * (passed / length)

    old, new = first.use, last.use
    step_ns = {work: whole(old.step_ns.get(work, 0), spent_ns) for work, spent_ns in new.step_ns.items()}
    between_ns, idle_ns = whole(old.between_ns, new.between_ns), whole(old.idle_ns, new.idle_ns)
    use = WorkerUse(
        started_ns=new.started_ns,
        wall_ns=sum(step_ns.values()) + between_ns + idle_ns,
        step_ns=step_ns,
        between_ns=between_ns,
        idle_ns=idle_ns,
        flops=part(old.flops, new.flops),
        read_bytes=part(old.read_bytes, new.read_bytes),
        cpu_s=part(old.cpu_s, new.cpu_s),
        rss_bytes=new.rss_bytes,
        disk_read_bytes=whole(old.disk_read_bytes, new.disk_read_bytes),
        disk_write_bytes=whole(old.disk_write_bytes, new.disk_write_bytes),
        energy_j=None if new.energy_j is None else part(old.energy_j or 0.0, new.energy_j),
    )
    preemptions, evictions = whole(first.preemptions, last.preemptions), whole(first.evictions, last.evictions)
    return Reached(use, preemptions, evictions)


def _less(last: WorkerUse, first: WorkerUse) -> WorkerUse:
    """What a worker used between two moments of one life."""
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


def _in_order(stretches: Iterable[WorkerStretch]) -> list[WorkerStretch]:
    return sorted(stretches, key=lambda stretch: (stretch.from_ns, stretch.worker))


# What is read of the database: of each life in the window the first and the last sample of each step, with the samples
# before and behind the window. Moments between two of a step's samples are nobody's edges.


def _lives_in(connection: sa.Connection, window: Window, step: sa.ColumnElement[int]) -> Iterator[list[_Knot]]:
    inside: dict[int, list[_Knot]] = {}
    for row in connection.execute(_ends_of_steps(window, step)):
        inside.setdefault(row.life, []).append(_knot(row))
    living = {row.id for row in connection.execute(_living(window))}
    for life in sorted(inside.keys() | living):
        before, behind = _before(connection, life, window.start_ns), _from(connection, life, window.end_ns)
        knots = [*before, *inside.get(life, []), *behind]
        if knots:
            yield knots


def _living(window: Window) -> sa.Select[tuple[int]]:
    """Lives that began before the window's end and were heard of since; by either clock, one of which may be wrong."""
    has_begun = sa.or_(lives.c.started_ns < window.end_ns, lives.c.last_ns - lives.c.wall_ns < window.end_ns)
    return sa.select(lives.c.id).where(lives.c.last_ns >= window.start_ns, has_begun)


def _ends_of_steps(window: Window, step: sa.ColumnElement[int]) -> sa.Select[Any]:
    columns = worker_samples.c
    heard = sa.select(lives.c.id).where(lives.c.last_ns >= window.start_ns)
    steps = (
        sa.select(
            columns.life,
            step.label("step"),
            sa.func.min(columns.at_ns).label("first_ns"),
            sa.func.max(columns.at_ns).label("last_ns"),
            sa.func.avg(columns.running).label("running"),
            sa.func.avg(columns.waiting).label("waiting"),
            sa.func.avg(columns.used_share).label("used_share"),
        )
        .where(columns.life.in_(heard), columns.at_ns >= window.start_ns, columns.at_ns < window.end_ns)
        .group_by(columns.life, sa.text("step"))
        .subquery()
    )
    is_end = sa.and_(columns.life == steps.c.life, columns.at_ns.in_([steps.c.first_ns, steps.c.last_ns]))
    means = (steps.c.running, steps.c.waiting, steps.c.used_share)
    statement = sa.select(columns.life, columns.at_ns, columns.body, *means)
    return statement.join_from(steps, worker_samples, is_end).order_by(columns.life, columns.at_ns)


def _before(connection: sa.Connection, life: int, at_ns: int) -> list[_Knot]:
    """The last sample of a life before a moment; nothing: it had none."""
    columns = worker_samples.c
    statement = sa.select(worker_samples).where(columns.life == life, columns.at_ns < at_ns)
    return [_knot(row) for row in connection.execute(statement.order_by(columns.at_ns.desc()).limit(1))]


def _from(connection: sa.Connection, life: int, at_ns: int) -> list[_Knot]:
    """The first sample of a life from a moment on; nothing: it has none."""
    columns = worker_samples.c
    statement = sa.select(worker_samples).where(columns.life == life, columns.at_ns >= at_ns)
    return [_knot(row) for row in connection.execute(statement.order_by(columns.at_ns).limit(1))]


def _knot(row: sa.Row[Any]) -> _Knot:
    means = _Means(float(row.running), float(row.waiting), float(row.used_share))
    return _Knot(row.at_ns, unpack(WorkerSample, row.body), means)
