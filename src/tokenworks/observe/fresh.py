"""Answers that take a while to compute, each computed once for all who ask at the same time, and kept for a moment.

Ten open dashboards cost what one costs. What took long is kept for as long as it took, so that the thread that computes
is never asked for more than it can give.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, Generic, TypeVar

from tokenworks.contract.errors import ObserverUnavailable

KEPT_S: Final = 1.0
MAX_PENDING: Final = 64
"""Questions that wait for their turn at most; each is one that nobody has asked within the last second."""

Value = TypeVar("Value")


class _Answer(Generic[Value]):
    def __init__(self, task: asyncio.Future[Value]) -> None:
        self.task = task
        self._asked_s = time.monotonic()
        self._stale_s = float("inf")
        task.add_done_callback(self._on_done)

    def is_stale(self, now_s: float) -> bool:
        return now_s >= self._stale_s

    def _on_done(self, task: asyncio.Future[Value]) -> None:
        now_s = time.monotonic()
        self._stale_s = now_s + max(KEPT_S, now_s - self._asked_s)
        if not task.cancelled():
            task.exception()  # seen, also where everybody who asked has gone


class FreshAnswers(Generic[Value]):
    """What was answered lately, by the question's words. Lives on one event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
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
            answer = self._answers[question] = _Answer(loop.run_in_executor(self._executor, compute))
        return await asyncio.shield(answer.task)

    def _forget_stale(self) -> None:
        now_s = time.monotonic()
        for question in [question for question, answer in self._answers.items() if answer.is_stale(now_s)]:
            del self._answers[question]
