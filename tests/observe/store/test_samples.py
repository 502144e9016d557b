"""Samples: what each life of a worker and of a store did in a window, whatever the clocks and the gateways did."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random

import pytest

from tests.observe.made import DAY_NS, HOUR_NS, MINUTE_NS, NOON_NS, SECOND_NS, worker_sample
from tests.observe.memory_ledger import MemoryLedger
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import StoreSample, Work, WorkerSample
from tokenworks.observe.ledger import Window, WorkerStretch
from tokenworks.observe.store import SqlLedger

ALL = Window(0, 2 * NOON_NS)


def life(start_ns: int, seconds: int, every_s: int = 5) -> list[WorkerSample]:
    """Half busy, half idle."""
    return [
        worker_sample(
            start_ns + second * SECOND_NS,
            second * SECOND_NS // 2,
            second * SECOND_NS // 2,
            start_ns,
            running=second % 3,
            free_blocks=second % 100,
            evictions=second // 2,
        )
        for second in range(every_s, seconds + 1, every_s)
    ]


def test_stretches_are_what_the_samples_in_a_window_say(ledger: SqlLedger) -> None:
    samples = life(NOON_NS, 300) + life(NOON_NS + 400 * SECOND_NS, 200)
    ledger.take_in(samples)
    oracle = MemoryLedger(samples)
    for start_s, end_s in ((0, 1000), (100, 200), (101, 104), (250, 450), (290, 420), (2000, 3000), (-10, 3)):
        window = Window(NOON_NS + start_s * SECOND_NS, NOON_NS + end_s * SECOND_NS)
        found, wanted = ledger.workers(window), oracle.workers(window)
        assert [stretch.use for stretch in found] == [stretch.use for stretch in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            for name in ours.__struct_fields__:
                value = getattr(theirs, name)
                assert getattr(ours, name) == (pytest.approx(value) if isinstance(value, float) else value), name


@pytest.mark.parametrize("step_s", [1, 20, 60])
def test_a_series_of_workers_is_window_after_window(ledger: SqlLedger, step_s: int) -> None:
    ledger.take_in(life(NOON_NS, 300) + life(NOON_NS + 500 * SECOND_NS, 200))
    window = Window(NOON_NS + 10 * SECOND_NS, NOON_NS + 650 * SECOND_NS)
    series = ledger.worker_series(window, step_s * SECOND_NS)
    assert [start_ns for start_ns, _ in series] == list(
        range(NOON_NS + 10 // step_s * SECOND_NS, window.end_ns, step_s * SECOND_NS)
    )
    for start_ns, told in series:
        step = Window(max(start_ns, window.start_ns), min(start_ns + step_s * SECOND_NS, window.end_ns))
        alone = ledger.workers(step)
        assert [as_dict(each) for each in told] == [pytest.approx(as_dict(each)) for each in alone]
    assert {len(told) for _, told in series} == {0, 1}


def test_windows_that_touch_add_up_to_the_whole(ledger: SqlLedger) -> None:
    ledger.take_in(life(NOON_NS, 600))
    edges = [NOON_NS + seconds * SECOND_NS for seconds in (0, 7, 60, 61, 333, 700)]
    parts = [ledger.workers(Window(*pair)) for pair in zip(edges, edges[1:], strict=False)]
    whole = ledger.workers(Window(edges[0], edges[-1]))
    assert sum(part.use.wall_ns for found in parts for part in found) == whole[0].use.wall_ns == 600 * SECOND_NS
    assert sum(part.use.step_ns[Work.DECODE] for found in parts for part in found) == 300 * SECOND_NS


def test_a_clock_that_steps_back_makes_no_time_negative_and_loses_none(ledger: SqlLedger) -> None:
    before, after = life(NOON_NS, 600)[:60], life(NOON_NS, 600)[60:]
    stepped = [WorkerSample(**{**as_dict(sample), "at_ns": sample.at_ns - HOUR_NS}) for sample in after]
    ledger.take_in(before)
    ledger.take_in(stepped)
    edges = [NOON_NS + minute * MINUTE_NS for minute in range(-61, 62)]
    parts = [stretch for pair in zip(edges, edges[1:], strict=False) for stretch in ledger.workers(Window(*pair))]
    assert all(part.use.wall_ns >= 0 and part.until_ns >= part.from_ns for part in parts)
    assert sum(part.use.wall_ns for part in parts) == 600 * SECOND_NS


def test_what_came_between_two_samples_came_evenly_but_not_for_longer_than_the_life(ledger: SqlLedger) -> None:
    """A clock jumped an hour ahead between the second and the third; a minute of life lies behind the second."""
    ahead = worker_sample(NOON_NS + HOUR_NS + 3 * MINUTE_NS, 2 * MINUTE_NS, MINUTE_NS)
    ledger.take_in([*(worker_sample(NOON_NS + m * MINUTE_NS, m * MINUTE_NS, 0) for m in (1, 2)), ahead])
    lived_s = {}
    for start_s in (0, 30, 60, 119, 120, 150, 180, 3000, 3700):
        found = ledger.workers(Window(NOON_NS + start_s * SECOND_NS, NOON_NS + (start_s + 30) * SECOND_NS))
        lived_s[start_s] = sum(stretch.use.wall_ns for stretch in found) / SECOND_NS
    assert lived_s == {0: 30, 30: 30, 60: 30, 119: 30, 120: 30, 150: 30, 180: 0, 3000: 0, 3700: 0}


def test_a_step_without_a_sample_has_what_the_next_one_tells(ledger: SqlLedger) -> None:
    ledger.take_in(
        [worker_sample(NOON_NS + s * SECOND_NS, 10**9 // 3 * s, 10**9 * 2 // 3 * s, running=s) for s in (5, 10)]
    )
    told = dict(ledger.worker_series(Window(NOON_NS, NOON_NS + 12 * SECOND_NS), SECOND_NS))
    means = [[stretch.running for stretch in told[NOON_NS + s * SECOND_NS]] for s in range(12)]
    assert means == [[5]] * 6 + [[10]] * 4 + [[]] * 2
    uses = [stretch.use for found in told.values() for stretch in found]
    assert all(use.wall_ns == use.idle_ns + use.step_ns[Work.DECODE] for use in uses)
    assert sum(use.wall_ns for use in uses) == ledger.workers(ALL)[0].use.wall_ns


def as_dict(told: WorkerSample | WorkerStretch) -> dict[str, object]:
    return {name: getattr(told, name) for name in told.__struct_fields__}


def test_two_gateways_that_tell_of_one_worker_count_it_once(ledger: SqlLedger) -> None:
    samples = life(NOON_NS, 600)
    ledger.take_in(samples)
    ledger.take_in([*samples[10:20], samples[-1]])
    [stretch] = ledger.workers(ALL)
    assert stretch.use.wall_ns == 600 * SECOND_NS


@pytest.mark.parametrize("seed", range(3))
def test_two_observers_of_one_database_count_a_shared_worker_and_store_once(
    settings: LedgerSettings, opened: Callable[..., SqlLedger], seed: int
) -> None:
    """Each takes in its own gateway's journal, in batches, while the other does; they hear of the same two lives."""
    random = Random(seed)
    told = [life(NOON_NS, 900, every_s=1), life(NOON_NS + 1000 * SECOND_NS, 300, every_s=1)]
    heard = [sorted(random.sample(range(len(each)), len(each) // 3)) for each in told for _ in range(2)]
    ledgers = [opened(settings), opened(settings)]

    def take_in(which: int) -> None:
        samples = [told[number][at] for number in range(2) for at in heard[2 * number + which]]
        while samples:
            batch, samples = samples[:40], samples[40:]
            ledgers[which].take_in([*batch, *(_store_of(sample) for sample in batch)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take_in, range(2)))
    lasts = [
        max(told[number][at].use.wall_ns for of in (0, 1) for at in heard[2 * number + of][-1:]) for number in (0, 1)
    ]
    assert [stretch.use.wall_ns for stretch in ledgers[0].workers(ALL)] == lasts
    edges = [NOON_NS + random.randrange(1400) * SECOND_NS + random.randrange(SECOND_NS) for _ in range(40)]
    windows = [Window(*pair) for pair in pairwise([0, *sorted(edges), 2 * NOON_NS])]
    spent = [stretch.use.wall_ns for window in windows for stretch in ledgers[1].workers(window)]
    assert min(spent) >= 0
    assert sum(spent) == sum(lasts)
    [store] = ledgers[0].stores(ALL)
    assert store.misses <= sum(lasts) // SECOND_NS
    assert sum(each.misses for window in windows for each in ledgers[1].stores(window)) == store.misses


def _store_of(sample: WorkerSample) -> StoreSample:
    """A store that began with the worker, as its gateway hears it at the same moment."""
    seconds = sample.use.wall_ns // SECOND_NS
    lived = {"started_ns": sample.use.started_ns, "alive_ns": sample.use.wall_ns}
    return StoreSample(sample.at_ns, "kv0", {Tier.HOST: 100}, misses=seconds, **lived)


def test_thinned_samples_say_the_same_of_whole_hours(ledger: SqlLedger) -> None:
    samples = life(NOON_NS, 3 * 3600, every_s=7)
    ledger.take_in(samples)
    hours = [Window(NOON_NS + hour * HOUR_NS, NOON_NS + (hour + 1) * HOUR_NS) for hour in range(3)]
    before = [[stretch.use for stretch in ledger.workers(hour)] for hour in hours]
    size = len(stored(ledger))
    for days in (2, 30):
        while ledger.keep_up(NOON_NS + days * DAY_NS):
            pass
        assert [[stretch.use for stretch in ledger.workers(hour)] for hour in hours] == before
        assert len(stored(ledger)) < size
        size = len(stored(ledger))
    assert size <= 8


def stored(ledger: SqlLedger) -> list[int]:
    with ledger._database.reading() as connection:
        return list(connection.exec_driver_sql("SELECT at_ns FROM worker_samples").scalars())


def store_sample(second: int, hits: int, used: int = 100) -> StoreSample:
    at_ns = NOON_NS + second * SECOND_NS
    return StoreSample(at_ns, "kv0", {Tier.HOST: used}, {Tier.HOST: 1000}, {Tier.HOST: hits}, misses=hits * 2)


def test_a_store_that_restarts_counts_on_and_holds_nothing_between(ledger: SqlLedger) -> None:
    ledger.take_in([store_sample(0, 5), store_sample(10, 7), store_sample(20, 1), store_sample(30, 4)])
    [stretch] = ledger.stores(ALL)
    assert stretch.hits == {Tier.HOST: 2 + 1 + 3}
    assert stretch.misses == 12
    assert stretch.byte_s == {Tier.HOST: pytest.approx(100 * 20)}
    assert stretch.used_bytes == {Tier.HOST: 100}


def test_a_store_s_windows_add_up(ledger: SqlLedger) -> None:
    ledger.take_in([store_sample(second, second) for second in range(0, 100, 10)])
    edges = [NOON_NS + seconds * SECOND_NS for seconds in (0, 35, 36, 70, 200)]
    parts = [stretch for pair in zip(edges, edges[1:], strict=False) for stretch in ledger.stores(Window(*pair))]
    assert sum(part.hits[Tier.HOST] for part in parts) == 90
    assert ledger.stores(Window(NOON_NS + HOUR_NS, NOON_NS + 2 * HOUR_NS)) == []


def test_a_store_whose_clock_steps_back_holds_no_negative_time(ledger: SqlLedger) -> None:
    ledger.take_in([store_sample(100, 1), store_sample(0, 2), store_sample(10, 3), store_sample(120, 4)])
    [stretch] = ledger.stores(ALL)
    assert stretch.hits == {Tier.HOST: 3}
    assert stretch.byte_s[Tier.HOST] == pytest.approx(100 * 20, rel=1e-6)


def test_a_stores_speed_is_that_of_the_middle_of_its_samples(ledger: SqlLedger) -> None:
    speeds: list[dict[Tier, float]] = [{}, {Tier.DISK: 9.0}, {Tier.DISK: 1.0, Tier.HOST: 5.0}, {Tier.DISK: 3.0}]
    samples = [
        StoreSample(NOON_NS + at * SECOND_NS, "kv0", read_bytes_per_s=told) for at, told in enumerate([*speeds, {}])
    ]
    ledger.take_in(samples)
    for start_s, wanted in ((0, {Tier.DISK: 3.0, Tier.HOST: 5.0}), (2, {Tier.DISK: 1.0, Tier.HOST: 5.0}), (4, {})):
        window = Window(NOON_NS + start_s * SECOND_NS, NOON_NS + 10 * SECOND_NS)
        [stretch], [expected] = ledger.stores(window), MemoryLedger(samples).stores(window)
        assert stretch.read_bytes_per_s == expected.read_bytes_per_s == wanted


def life_of_store(started_s: int, hits: int, seconds: range, late_s: int = 0) -> list[StoreSample]:
    """As a gateway hears it, that many seconds late."""
    started_ns = NOON_NS + started_s * SECOND_NS
    return [
        StoreSample(
            started_ns + (second + late_s) * SECOND_NS,
            "kv0",
            {Tier.HOST: 100},
            hits={Tier.HOST: hits * second},
            misses=second,
            started_ns=started_ns,
            alive_ns=second * SECOND_NS,
        )
        for second in seconds
    ]


@pytest.mark.parametrize("late_s", [0, 2])
def test_two_gateways_that_tell_of_one_store_count_it_once(ledger: SqlLedger, late_s: int) -> None:
    """Each has a journal, and one is read after the other: the second's begins before the first's has ended."""
    told = [*life_of_store(0, 3, range(0, 60, 5)), *life_of_store(100, 5, range(0, 60, 5))]
    again = [*life_of_store(0, 3, range(1, 60, 5), late_s), *life_of_store(100, 5, range(1, 60, 5), late_s)]
    ledger.take_in(told)
    ledger.take_in(again[:7])
    ledger.take_in(again[7:])
    [stretch] = ledger.stores(ALL)
    assert stretch.hits == {Tier.HOST: 3 * 55 + 5 * 56}
    assert stretch.misses == 55 + 56
    assert stretch.byte_s[Tier.HOST] == pytest.approx(100 * (55 + 56), abs=100 * (1 + late_s))
