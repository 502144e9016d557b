"""What waits to be written to a tier: in order of value, one at a time, and no more remembered than waits."""

from __future__ import annotations

import random

from tokenworks.kv.writes import Entry, WriteQueue


def name_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_the_most_valuable_goes_first_and_of_equals_the_oldest() -> None:
    queue = WriteQueue()
    for number, cost_s in enumerate([0.1, 0.9, 0.5, 0.9]):
        queue.want(name_of(number), Entry(100, b"", cost_s), float(number))
    assert queue.forget(name_of(2))
    assert not queue.forget(name_of(2))
    order = []
    while (wish := queue.next()) is not None:
        name, entry, since_s = wish
        assert since_s == int.from_bytes(name, "big")
        order.append(since_s)
        queue.started(name, entry)
        assert queue.next() is None, "one is under way"
        assert queue.ended(name) is entry
    assert order == [1.0, 3.0, 0.0]


def test_a_tier_that_takes_nothing_for_days_costs_no_memory() -> None:
    """Blocks come, wait to be written, and leave host memory again, while the disk is full."""
    queue, dice = WriteQueue(), random.Random(0)
    waiting: list[int] = []
    for number in range(20_000):
        queue.want(name_of(number), Entry(100, b"", dice.random()), 0.0)
        waiting.append(number)
        if len(waiting) > 50:
            assert queue.forget(name_of(waiting.pop(dice.randrange(50))))
    assert len(queue) == 50
    assert len(queue._by_value) < 200
    left = set()
    while (wish := queue.next()) is not None:
        left.add(wish[0])
    assert left == {name_of(number) for number in waiting}
