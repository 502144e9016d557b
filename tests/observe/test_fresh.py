"""Answers computed once for all who ask: concurrency made by hand, with threads that wait until they are let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tokenworks.contract.errors import InvalidRequest, ObserverUnavailable
from tokenworks.observe.fresh import MAX_PENDING, FreshAnswers


@pytest.fixture
def answers() -> Iterator[FreshAnswers[int]]:
    with ThreadPoolExecutor(1) as executor:
        yield FreshAnswers(executor)


class Counting:
    """Computes how often it was asked, once it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.times = 0

    def __call__(self) -> int:
        self.times += 1
        self.go.wait(20)
        return self.times


async def test_who_asks_the_same_at_the_same_time_gets_one_answer(answers: FreshAnswers[int]) -> None:
    compute = Counting()
    asking = [asyncio.create_task(answers.get("a", compute)) for _ in range(5)]
    await asyncio.sleep(0)
    compute.go.set()
    assert await asyncio.gather(*asking) == [1] * 5
    assert await answers.get("a", compute) == 1
    assert await answers.get("b", compute) == 2


async def test_an_answer_is_kept_for_a_second_and_one_that_took_longer_for_as_long() -> None:
    now_s = 0.0
    compute = Counting()
    with ThreadPoolExecutor(1) as executor:
        answers = FreshAnswers[int](executor, lambda: now_s)
        asking = asyncio.create_task(answers.get("a", compute))
        await asyncio.sleep(0)
        now_s = 3.0  # it took three seconds
        compute.go.set()
        assert await asking == 1
        now_s = 5.9
        assert await answers.get("a", compute) == 1
        now_s = 6.0
        assert await answers.get("a", compute) == 2  # at once
        now_s = 6.9
        assert await answers.get("a", compute) == 2
        now_s = 7.0
        assert await answers.get("a", compute) == 3


async def test_an_error_is_an_answer_too(answers: FreshAnswers[int]) -> None:
    times = 0

    def fail() -> int:
        nonlocal times
        times += 1
        raise InvalidRequest("no")

    for _ in range(2):
        with pytest.raises(InvalidRequest):
            await answers.get("a", fail)
    assert times == 1


async def test_who_goes_away_takes_no_answer_from_others(answers: FreshAnswers[int]) -> None:
    compute = Counting()
    first, second = (asyncio.create_task(answers.get("a", compute)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    compute.go.set()
    assert await second == 1
    assert first.cancelled()


async def test_too_many_questions_at_once_are_refused(answers: FreshAnswers[int]) -> None:
    compute = Counting()
    asking = [asyncio.create_task(answers.get(str(number), compute)) for number in range(MAX_PENDING)]
    await asyncio.sleep(0)
    with pytest.raises(ObserverUnavailable, match="ask again"):
        await answers.get("one more", compute)
    compute.go.set()
    assert sorted(await asyncio.gather(*asking)) == list(range(1, MAX_PENDING + 1))
