"""Gaps between tokens, counted many at a time: what is shown is what the library's histogram shows of one by one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from tokenworks.gateway.metrics.gaps import COUNTED_AT_ONCE, LONGEST_GAP_US, GapHistogram

BOUNDS_S = (0.001, 0.0025, 0.01, 2.5)


def shown(*collectors: GapHistogram | Histogram) -> list[str]:
    """Lines as a scraper gets them, without the library's time of creation, and sums to a billionth."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    lines = [line.split() for line in generate_latest(registry).decode().splitlines() if "created" not in line]
    return [f"{name} {float(value):.9g}" for name, value in lines[-len(BOUNDS_S) - 3 :]]


def one_by_one(gaps_us: Iterable[int]) -> list[str]:
    peer = Histogram("itl_seconds", "For the test.", buckets=BOUNDS_S, registry=None)
    for gap_us in gaps_us:
        peer.observe(gap_us / 1e6)
    return shown(peer)


def ours() -> GapHistogram:
    return GapHistogram("itl_seconds", "For the test.", BOUNDS_S)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_counting_one_by_one_comes_to_whoever_looks_whenever(seed: int) -> None:
    draw = random.Random(seed)
    on_bounds = [round(bound_s * 1e6) + off for bound_s in BOUNDS_S for off in (-1, 0, 1)]
    histogram, noted = ours(), list[int]()
    under_way: list[array[int]] = []
    for _ in range(300):
        what = draw.random()
        if what < 0.2 or not under_way:
            under_way.append(histogram.open())
        elif what < 0.35:
            histogram.close(under_way.pop(draw.randrange(len(under_way))))
        elif what < 0.4:
            assert shown(histogram) == one_by_one(noted)
        else:
            gaps_us = [draw.choice([0, LONGEST_GAP_US, *on_bounds]) for _ in range(draw.randrange(50))]
            draw.choice(under_way).extend(gaps_us)
            noted += gaps_us
    assert shown(histogram) == one_by_one(noted)


def test_what_nobody_asks_for_is_taken_in_all_the_same() -> None:
    histogram = ours()
    for _ in range(3):
        gaps_us = histogram.open()
        gaps_us.extend([2000] * (COUNTED_AT_ONCE // 2))
        histogram.close(gaps_us)
    assert len(histogram._uncounted) == COUNTED_AT_ONCE // 2
    assert shown(histogram) == one_by_one([2000] * (3 * COUNTED_AT_ONCE // 2))


def test_nothing_yet_is_shown_as_nothing() -> None:
    assert shown(ours()) == one_by_one([])
