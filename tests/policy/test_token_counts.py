"""Counts of a sequence's tokens against counting them all again."""

from __future__ import annotations

import random
from collections import Counter

from tokenworks.policy.token_counts import TokenCounts


def told(counts: TokenCounts) -> dict[int, int]:
    return dict(zip(counts.token_ids, counts.output_counts, strict=True))


def test_counts_kept_up_are_those_of_counting_again() -> None:
    chance = random.Random(1)
    for _ in range(50):
        prompt = [chance.randrange(20) for _ in range(chance.randrange(15))]
        counts, output = TokenCounts(prompt), list[int]()
        for _ in range(10):
            new = [chance.randrange(20) for _ in range(chance.randrange(4))]
            counts.count_output(new)
            output += new
            assert told(counts) == dict.fromkeys(prompt, 0) | Counter(output)
            assert counts.num_counted == len(prompt) + len(output)


def test_a_copy_goes_its_own_way() -> None:
    counts = TokenCounts([1, 2])
    ahead = counts.copy()
    ahead.count_output((2, 3))
    assert (told(counts), counts.num_counted) == ({1: 0, 2: 0}, 2)
    assert (told(ahead), ahead.num_counted) == ({1: 0, 2: 1, 3: 1}, 4)
    counts.count_output((3,))
    assert told(counts) == {1: 0, 2: 0, 3: 1}
