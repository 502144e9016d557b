"""Turns sent as they came: each at its instant in the trace, or when its conversation's previous answer has come.

Whichever is later, as a user of a chat would, who reads the answer before going on. So a slow system is asked later
than a fast one: it is spared some of the load, never given more. Other conversations do not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.kv.client import Answer
from benchmarks.kv.conversations import Turn


async def paced(turns: Sequence[Turn], speed: float, ask: Callable[[int], Awaitable[Answer]]) -> list[Answer]:
    """`ask(i)` for each of the turns, which are in order of arrival, `speed` trace seconds a second; their answers.

    Time is the event loop's. Raises what `ask` raises, in an ExceptionGroup, having given up the others.
    """
    start_s = asyncio.get_running_loop().time()
    answers: dict[int, Answer] = {}

    async def converse(indices: Sequence[int]) -> None:
        for index in indices:
            due_s = start_s + (turns[index].arrival_s - turns[0].arrival_s) / speed
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())  # not at all, where that is past
            answers[index] = await ask(index)

    async with asyncio.TaskGroup() as group:
        for indices in _by_conversation(turns):
            group.create_task(converse(indices))
    return [answers[index] for index in range(len(turns))]


def _by_conversation(turns: Sequence[Turn]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for index, turn in enumerate(turns):
        found.setdefault(turn.conversation, []).append(index)
    return list(found.values())
