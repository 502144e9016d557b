"""Turns sent as they came, on virtual time: nothing is waited for, and every instant can be computed by hand."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from benchmarks.kv.client import Answer
from benchmarks.kv.conversations import Turn
from benchmarks.kv.pacing import paced
from benchmarks.kv.replay_tables import Replay, as_they_came, offered, spread


class VirtualTime(selectors.DefaultSelector):
    """Jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += timeout or 0.0
        return super().select(0)


def on_virtual_time(work: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
    time = VirtualTime()
    loop = asyncio.SelectorEventLoop(time)
    loop.time = lambda: time.now_s  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


def replayed(turns: Sequence[Turn], speed: float, took_s: Sequence[float]) -> list[Answer]:
    """Each turn is answered after its `took_s`."""

    async def ask(index: int) -> Answer:
        sent_s = asyncio.get_running_loop().time()
        await asyncio.sleep(took_s[index])
        return Answer(sent_s, e2e_s=asyncio.get_running_loop().time() - sent_s)

    return on_virtual_time(paced(turns, speed, ask))


TURNS = [Turn(0, 100.0, 8, 2), Turn(1, 110.0, 8, 2), Turn(0, 120.0, 8, 2), Turn(0, 130.0, 8, 2), Turn(1, 160.0, 8, 2)]


def test_a_turn_is_sent_at_its_instant_faster_than_the_trace_by_the_speed() -> None:
    answers = replayed(TURNS, 10.0, [0.5] * 5)
    assert [answer.sent_s for answer in answers] == pytest.approx([0.0, 1.0, 2.0, 3.0, 6.0])
    assert [answer.e2e_s for answer in answers] == pytest.approx([0.5] * 5)


def test_a_turn_waits_for_its_conversations_answer_and_for_no_other() -> None:
    answers = replayed(TURNS, 10.0, [2.5, 0.1, 2.0, 1.0, 0.1])
    assert [answer.sent_s for answer in answers] == pytest.approx([0.0, 1.0, 2.5, 4.5, 6.0])


def test_a_turn_that_fails_ends_the_replay() -> None:
    async def ask(index: int) -> Answer:
        if index == 2:
            raise RuntimeError("500")
        return Answer(0.0)

    with pytest.raises(ExceptionGroup) as failed:
        on_virtual_time(paced(TURNS, 10.0, ask))
    assert [str(error) for error in failed.value.exceptions] == ["500"]


def answer(sent_s: float, ttft_s: float, e2e_s: float, cached: int, **by_tier: int) -> Answer:
    return Answer(sent_s, ttft_s, e2e_s, prompt_tokens=100, cached_tokens=cached, by_tier=by_tier)


def test_the_table_says_how_busy_it_was_and_what_became_of_the_response_times() -> None:
    base = Replay([answer(0.0, 3.0, 4.0, 0), answer(2.0, 5.0, 8.0, 20)], step_s=9.0)
    ours = Replay([answer(0.0, 1.0, 2.0, 0), answer(2.0, 1.0, 4.0, 60, device=10, host=50)], step_s=3.0)
    assert (base.span_s, base.busy, base.in_flight) == (10.0, 0.9, 1.2)
    _, _, first, second = as_they_came({"no store": base, "host": ours})
    assert first == (
        "| no store | 10.0% | 10.0% / 0.0% / 0.0% | 90% | 1.2 | 10 | 12 / 6.00 / 6.00 / 7.80 | "
        "8 / 4.00 / 4.00 / 4.90 | +0% | +0% |"
    )
    assert second == (
        "| host | 30.0% | 5.0% / 25.0% / 0.0% | 50% | 1.0 | 6 | 6 / 3.00 / 3.00 / 3.90 | "
        "2 / 1.00 / 1.00 / 1.00 | -50% | -75% |"
    )
    assert offered(base, 6.0).startswith("offered: 150% of")
    *_, alone = as_they_came({"host": ours})
    assert alone.endswith("| - | - |")
    assert spread([1.0, 3.0]) == "4 / 2.00 / 2.00 / 2.90"
