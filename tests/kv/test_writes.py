"""The queue of blocks that are to be written, against a list that is searched anew each time."""

from __future__ import annotations

import random

import pytest

from tokenworks.kv.writes import FEW, Entry, WriteQueue

PARENT = bytes(16)


def named(number: int) -> bytes:
    return number.to_bytes(16, "big")


def worth(recompute_s: float) -> Entry:
    return Entry(1000, PARENT, recompute_s)


@pytest.mark.parametrize("seed", range(5))
def test_the_most_valuable_goes_first_whatever_was_wanted_and_forgotten_before(seed: int) -> None:
    draw = random.Random(seed)
    queue, waiting = WriteQueue(), dict[bytes, tuple[float, int]]()
    for step in range(5000):
        name, value = named(draw.randrange(100)), draw.choice([0.5, 1.0, 2.0, 4.0])
        match draw.randrange(3):
            case 0:
                if name not in queue:
                    queue.want(name, worth(value), step)
                    waiting[name] = (-value, step)
            case 1:
                assert queue.forget(name) == (waiting.pop(name, None) is not None)
            case _:
                wanted = min(waiting, key=waiting.__getitem__, default=None)
                found = queue.next()
                assert (None if found is None else found[0]) == wanted
                if found is not None:
                    value, since = waiting.pop(found[0])
                    assert found[1:] == (worth(-value), since)
        assert len(queue) == len(waiting)


def test_a_tier_that_takes_nothing_does_not_fill_memory() -> None:
    queue = WriteQueue()
    for step in range(FEW):
        queue.want(named(step), worth(1.0), step)
    for step in range(FEW, 100 * FEW):  # each comes, and leaves memory again before it is written
        queue.want(named(step), worth(1.0 + step % 7), step)
        assert queue.forget(named(step))
    assert len(queue._by_value) <= 2 * (FEW + 1)
    assert queue.next() == (named(0), worth(1.0), 0)
