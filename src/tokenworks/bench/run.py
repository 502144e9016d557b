"""Drives a plan against a sender: the open loop, the closed loop and the end of both.

The open loop follows its schedule whatever the server does: a due request is sent while earlier ones are still in
flight, and how late the client itself was stays visible (`due_s` against `sent_s`). The closed loop keeps N in flight.
Either is bounded: no send starts after `max_duration_s`, and each one that has started ends by its own timeout.

Invariants: every request sent ends up once in `results` or, when the run is interrupted, once in `tally.abandoned`.
What has been measured is in `results` at any time, so an interrupted run still has its figures.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import msgspec

from tokenworks.bench.arrivals import PlannedRequest
from tokenworks.bench.measure import RequestResult

Prepared = TypeVar("Prepared")


class Sender(Protocol[Prepared]):
    """What a run needs of a client; `send` must turn every failure into a result."""

    def prepare(self, planned: PlannedRequest) -> Prepared: ...

    async def send(self, prepared: Prepared, due_s: float | None) -> RequestResult: ...


class Tally(msgspec.Struct):
    """Live counts for the progress bar; the report computes its own from the results."""

    sent: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    ok: int = 0
    failed: int = 0
    rejected: int = 0
    abandoned: int = 0  # in flight when the run was interrupted
    token_events: int = 0

    def on_sent(self) -> None:
        self.sent += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def on_result(self, result: RequestResult) -> None:
        self.ok += result.outcome == "ok"
        self.failed += result.outcome == "failed"
        self.rejected += result.outcome == "rejected"

    def on_token_events(self, num_events: int) -> None:
        self.token_events += num_events


class LoadRun:
    """One run in progress: its results so far and its tally."""

    def __init__(self, sender: Sender[Prepared], tally: Tally, *, start_s: float, max_duration_s: float) -> None:
        self.results: list[RequestResult] = []
        self.tally = tally
        self.is_cut_short = False  # the plan had more requests than the duration allowed
        self._sender = sender
        self._start_s = start_s
        self._max_duration_s = max_duration_s

    async def follow(self, plan: Iterable[PlannedRequest], concurrency: int | None) -> None:
        """Closed loop where a concurrency is given, open loop otherwise."""
        await (self.open_loop(plan) if concurrency is None else self.closed_loop(plan, concurrency))

    async def open_loop(self, plan: Iterable[PlannedRequest]) -> None:
        """Send each request at its instant, then wait for the last one to end."""
        async with asyncio.TaskGroup() as in_flight:
            for planned in plan:
                if max(planned.arrival_s, self._elapsed_s()) > self._max_duration_s:
                    self.is_cut_short = True
                    break
                prepared = self._sender.prepare(planned)
                await asyncio.sleep(max(0.0, planned.arrival_s - self._elapsed_s()))
                in_flight.create_task(self._send(prepared, planned.arrival_s))

    async def closed_loop(self, plan: Iterable[PlannedRequest], concurrency: int) -> None:
        """Keep `concurrency` requests in flight until the plan or the duration is used up."""
        shared = iter(plan)
        async with asyncio.TaskGroup() as lanes:
            for _ in range(concurrency):
                lanes.create_task(self._lane(shared))

    async def _lane(self, shared: Iterator[PlannedRequest]) -> None:
        for planned in shared:
            if self._elapsed_s() >= self._max_duration_s:
                self.is_cut_short = True
                break
            await self._send(self._sender.prepare(planned), None)

    async def _send(self, prepared: Any, due_s: float | None) -> None:
        self.tally.on_sent()
        try:
            result = await self._sender.send(prepared, due_s)
        except asyncio.CancelledError:
            self.tally.abandoned += 1
            raise
        finally:
            self.tally.in_flight -= 1
        self.results.append(result)
        self.tally.on_result(result)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._start_s


async def run_until_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work`; SIGINT or SIGTERM cancels it. Returns whether that happened, so that a report can still follow."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return True
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)
    return False
