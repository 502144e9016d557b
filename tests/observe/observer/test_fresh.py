"""Answers computed once for all who ask: concurrency made by hand, with threads that wait until they are let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tokenworks.contract.errors import InvalidRequest, ObserverUnavailable
from tokenworks.observe.observer.fresh import MAX_PENDING, FreshAnswers


@pytest.fixture
def answers() -> Iterator[FreshAnswers[int]]:
    """Their clock stands still: nothing grows old while a busy machine does something else."""
    with ThreadPoolExecutor(1) as executor:
        yield FreshAnswers(executor, lambda: 0.0)


class Counting:
    """Computes how often it was asked, once it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.times = 0

    def __call__(self) -> int:
        self.times += 1
        self.go.wait(60)
        return self.times


async def test_who_asks_the_same_at_the_same_time_gets_one_answer(answers: FreshAnswers[int]) -> None:
    compute = Counting()
    asking = [asyncio.create_task(answers.get("a", compute)) for _ in range(5)]
    await asyncio.sleep(0)
    compute.go.set()
    assert await asyncio.gather(*asking) == [1] * 5
    assert await answers.get("a", compute) == 1
    assert await answers.get("b", compute) == 2


async def test_an_answer_is_kept_for_a_second_and_one_that_took_much_for_longer() -> None:
    now_s = 0.0
    efforts = iter([0.0, 0.5, 0.5, 0.6, 0.6, 0.6])  # before and after each computation
    compute = Counting()
    compute.go.set()
    with ThreadPoolExecutor(1) as executor:
        answers = FreshAnswers[int](executor, lambda: now_s, efforts.__next__)

        async def at(moment_s: float) -> int:
            nonlocal now_s
            now_s = moment_s
            return await answers.get("a", compute)

        assert await at(0.0) == 1  # it took half a second
        assert await at(4.4) == 1
        assert await at(4.5) == 2  # a tenth
        assert await at(5.4) == 2
        assert await at(5.5) == 3


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
