"""Prompt lookup against a search through all of the text, and by hand."""

from __future__ import annotations

import random

import pytest

from tokenworks.policy.prompt_lookup import LONGEST_MATCH, SIZES, Match, PromptLookup, continuation


def search(token_ids: list[int]) -> Match | None:
    """The definition, by brute force: the latest earlier occurrence of the last 4 tokens, or else of the last 2."""
    for size in SIZES:
        for end in range(len(token_ids) - 1, size - 1, -1):
            if token_ids[end - size : end] == token_ids[-size:]:
                length = size
                while length < min(end, LONGEST_MATCH) and token_ids[end - length - 1] == token_ids[-length - 1]:
                    length += 1
                return Match(end, length)
    return None


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("stride", [1, 2, 7])
def test_the_latest_and_longest_occurrence_is_found(vocabulary: int, stride: int) -> None:
    rng = random.Random(vocabulary)
    lookup, token_ids = PromptLookup(), [rng.randrange(vocabulary)]
    for _ in range(150):
        assert lookup.find(token_ids) == search(token_ids)
        token_ids += [rng.randrange(vocabulary) for _ in range(stride)]


def test_by_hand() -> None:
    lookup = PromptLookup()
    token_ids = [1, 2, 3, 4, 5, 9, 3, 4]
    assert lookup.find(token_ids) == Match(end=4, length=2)
    token_ids.append(5)
    assert lookup.find(token_ids) == Match(end=5, length=3)
    token_ids += [2, 3, 4, 5]
    assert lookup.find(token_ids) == Match(end=5, length=4)  # four in common go before the later three
    assert lookup.find([7, 7]) is None


def test_asking_twice_changes_nothing() -> None:
    lookup = PromptLookup()
    token_ids = [1, 2, 8, 1, 2]
    assert lookup.find(token_ids) == lookup.find(token_ids) == Match(2, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_a_copy_goes_on_with_what_it_copied(count: int) -> None:
    assert continuation([5, 6, 7, 8, 9], 2, count) == [7, 8, 9, 7, 8, 9, 7, 8][:count]


def test_a_loop_of_one_token_is_followed() -> None:
    token_ids = [3, 3, 3]
    match = PromptLookup().find(token_ids)
    assert match == Match(end=2, length=2)
    assert continuation(token_ids, 2, 4) == [3, 3, 3, 3]
