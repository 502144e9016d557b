"""Answers that take a while to compute, each computed once for all who ask at the same time, and kept for a moment.

Ten open dashboards cost what one costs. What took much of the processor is kept for longer, so that one question,
however often it is asked, takes a tenth of a core at most: the machine is there for those who are served by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, Generic, TypeVar

from tokenworks.contract.errors import ObserverUnavailable

KEPT_S: Final = 1.0
REST: Final = 9
"""An answer is kept for at least so many times the processor time that it took."""
MAX_PENDING: Final = 64
"""Questions that wait for their turn at most; each is one that nobody has asked within the last second."""

Value = TypeVar("Value")
Clock = Callable[[], float]


class _Answer(Generic[Value]):
    def __init__(self, task: asyncio.Future[tuple[Value, float]], clock: Clock) -> None:
        self.task = task
        self._clock = clock
        self._stale_s = float("inf")
        task.add_done_callback(self._on_done)

    def is_stale(self, now_s: float) -> bool:
        return now_s >= self._stale_s

    def _on_done(self, task: asyncio.Future[tuple[Value, float]]) -> None:
        took_s = 0.0
        if not task.cancelled() and task.exception() is None:
            _, took_s = task.result()
        self._stale_s = self._clock() + max(KEPT_S, REST * took_s)


class FreshAnswers(Generic[Value]):
    """What was answered lately, by the question's words. Lives on one event loop."""

    def __init__(self, executor: Executor, clock: Clock = time.monotonic, effort: Clock = time.thread_time) -> None:
        self._executor = executor
        self._clock = clock
        self._effort = effort  # seconds of processor time of the thread that asks
        self._answers: dict[str, _Answer[Value]] = {}

    async def get(self, question: str, compute: Callable[[], Value]) -> Value:
        """The answer, computed in the executor unless it is known; an error that `compute` raised is an answer too.

        Raises ObserverUnavailable where too many other questions are waiting.
        """
        self._forget_stale()
        answer = self._answers.get(question)
        if answer is None:
            if sum(not each.task.done() for each in self._answers.values()) >= MAX_PENDING:
                raise ObserverUnavailable(f"{MAX_PENDING} other questions wait for the ledger; ask again in a moment")
            loop = asyncio.get_running_loop()
            answer = self._answers[question] = _Answer(
                loop.run_in_executor(self._executor, self._measured, compute), self._clock
            )
        value, _ = await asyncio.shield(answer.task)
        return value

    def _measured(self, compute: Callable[[], Value]) -> tuple[Value, float]:
        before_s = self._effort()
        value = compute()
        return value, self._effort() - before_s

    def _forget_stale(self) -> None:
        now_s = self._clock()
        for question in [question for question, answer in self._answers.items() if answer.is_stale(now_s)]:
            del self._answers[question]
