"""The two loops against a sender whose answers the test lets go by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tokenworks.bench.arrivals import PlannedRequest
from tokenworks.bench.measure import RequestResult
from tokenworks.bench.run import LoadRun, Tally, run_until_signal


class HeldSender:
    """Answers nothing until `release` is set; keeps what it was asked for and when it was due."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.sent: list[tuple[int, float | None]] = []
        self.all_sent = asyncio.Event()
        self.expected = -1

    def prepare(self, planned: PlannedRequest) -> PlannedRequest:
        return planned

    async def send(self, prepared: PlannedRequest, due_s: float | None) -> RequestResult:
        self.sent.append((prepared.index, due_s))
        if len(self.sent) == self.expected:
            self.all_sent.set()
        await self.release.wait()
        outcome = "failed" if prepared.index == 1 else "ok"
        return RequestResult(index=prepared.index, outcome=outcome, sent_s=0.0, e2e_s=1.0)  # type: ignore[arg-type]


def plan(*arrivals_s: float) -> list[PlannedRequest]:
    return [PlannedRequest(index, arrival_s, 1, 1) for index, arrival_s in enumerate(arrivals_s)]


def load_run(sender: HeldSender, max_duration_s: float = 60.0) -> LoadRun:
    return LoadRun(sender, Tally(), start_s=time.monotonic(), max_duration_s=max_duration_s)


async def test_the_open_loop_sends_on_schedule_while_no_answer_has_come() -> None:
    sender = HeldSender()
    sender.expected = 4
    run = load_run(sender)
    task = asyncio.create_task(run.follow(plan(0.0, 0.01, 0.01, 0.02), None))
    await sender.all_sent.wait()
    assert sender.sent == [(0, 0.0), (1, 0.01), (2, 0.01), (3, 0.02)]
    assert (run.tally.in_flight, run.tally.ok, run.results) == (4, 0, [])
    sender.release.set()
    await task
    assert (run.tally.sent, run.tally.in_flight, run.tally.peak_in_flight) == (4, 0, 4)
    assert (run.tally.ok, run.tally.failed, len(run.results), run.is_cut_short) == (3, 1, 4, False)


async def test_the_open_loop_sends_nothing_past_its_duration() -> None:
    sender = HeldSender()
    sender.release.set()
    run = load_run(sender)
    await run.follow(plan(0.0, 0.01, 1000.0, 2000.0), None)
    assert (sender.sent, run.is_cut_short) == ([(0, 0.0), (1, 0.01)], True)


async def test_a_client_that_lags_behind_its_schedule_stops_at_the_duration_too() -> None:
    sender = HeldSender()
    run = LoadRun(sender, Tally(), start_s=time.monotonic() - 100.0, max_duration_s=60.0)
    await run.follow(plan(0.0, 0.01), None)
    assert (sender.sent, run.is_cut_short) == ([], True)


async def test_the_closed_loop_keeps_n_in_flight_until_the_plan_is_used_up() -> None:
    sender = HeldSender()
    sender.expected = 3
    run = load_run(sender)
    task = asyncio.create_task(run.follow(plan(*[0.0] * 10), 3))
    await sender.all_sent.wait()
    await asyncio.sleep(0)
    assert (run.tally.in_flight, len(sender.sent)) == (3, 3)
    sender.release.set()
    await task
    assert sorted(index for index, _ in sender.sent) == list(range(10))
    assert {due_s for _, due_s in sender.sent} == {None}
    assert (run.tally.peak_in_flight, len(run.results)) == (3, 10)


async def test_the_closed_loop_starts_nothing_past_its_duration() -> None:
    sender = HeldSender()
    sender.release.set()
    run = load_run(sender, max_duration_s=0.0)
    await run.follow(plan(0.0, 0.0), 1)
    assert (run.results, run.is_cut_short) == ([], True)


@pytest.mark.parametrize("concurrency", [None, 2])
async def test_a_signal_ends_the_run_and_keeps_what_was_measured(concurrency: int | None) -> None:
    sender = HeldSender()
    run = load_run(sender)
    sender.release.set()
    await run.follow(plan(0.0), concurrency)
    sender.release.clear()
    sender.expected = 3
    interrupting = asyncio.create_task(interrupt_when(sender.all_sent))
    assert await run_until_signal(run.follow(plan(0.0, 0.0), concurrency))
    await interrupting
    assert (len(run.results), run.tally.abandoned, run.tally.in_flight, run.tally.sent) == (1, 2, 0, 3)


async def interrupt_when(event: asyncio.Event) -> None:
    await event.wait()
    os.kill(os.getpid(), signal.SIGINT)


async def test_a_run_that_ends_by_itself_was_not_interrupted() -> None:
    sender = HeldSender()
    sender.release.set()
    assert not await run_until_signal(load_run(sender).follow(plan(0.0), None))


async def test_a_bug_in_the_sender_is_not_swallowed() -> None:
    class Buggy(HeldSender):
        async def send(self, prepared: PlannedRequest, due_s: float | None) -> RequestResult:
            raise KeyError("bug")

    with pytest.raises(ExceptionGroup):
        await load_run(Buggy()).follow(plan(0.0), None)
