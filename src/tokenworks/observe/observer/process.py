"""The observer's process: one a state folder, beside the system that it watches and never in its way.

It takes the journal in every `BATCH_EVERY_S`, keeps the ledger up, and runs the tasks of `tasks.py`. It is as nice as
can be to whoever computes on this machine. SIGTERM and SIGINT: what is in the journal is taken in, for `DRAIN_S` at
most; what is left then is taken in at the next start. A second observer on the same folder waits until the first one is
gone (flock).

Retention believes the wall clock only as far as the monotonic one agrees: a clock that jumps ahead deletes nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.contract.folders import state_folder
from tokenworks.observe.observer.context import ObserverContext
from tokenworks.observe.observer.intake import Intake
from tokenworks.observe.observer.tasks import TASKS, Task
from tokenworks.observe.store import open_ledger
from tokenworks.observe.terms import note_terms

log = logging.getLogger(__name__)

BATCH_EVERY_S: Final = 1.0
GATHER_S: Final = 0.05  # more spans, when some have come: whoever sent them waits, and each batch is a sync of the disk
UPKEEP_EVERY_S: Final = 10.0
UPKEEP_PAUSE_S: Final = 0.05  # between two steps of it, for whoever waits for the database
WAIT_S: Final = 1.0  # for another observer to end
DRAIN_S: Final = 15.0
LEAVE_S: Final = 3.0
AGAIN_S: Final = 5.0  # before a task that failed
NICENESS: Final = 10
LOCK: Final = "observer.lock"
SHARED: Final = (
    "another system keeps its ledger in %s too: table and bill are of both, and workers of the same name are one row. "
    "Give this one a folder of its own: --ledger-path"
)


def run_observer(settings: Settings, tasks: Sequence[Task] = TASKS) -> None:
    """Watch until SIGTERM; raises StartupError where there is nothing to watch, or no place for it."""
    folder = state_folder(settings.ledger)
    if folder is None:
        raise ConfigError("the ledger is off, so there is nothing to observe: set path in [ledger] to a folder")
    with suppress(OSError):
        os.nice(NICENESS)
    lock = _lock_file(folder)
    leaving = threading.Timer(LEAVE_S, os._exit, (0,))
    leaving.daemon = True
    try:
        asyncio.run(_main(settings, folder, lock, tasks, leaving.start))
    finally:
        leaving.cancel()
        os.close(lock)


async def _main(
    settings: Settings, folder: Path, lock: int, tasks: Sequence[Task], leave_soon: Callable[[], None]
) -> None:
    intake = Intake(settings, folder)
    opener = partial(open_ledger, settings.ledger, cost=settings.cost, objectives=settings.objectives)
    context = ObserverContext(settings, folder, opener, intake.spans.offer, intake.listeners)
    spans_came = asyncio.Event()
    intake.spans.on_offer = spans_came.set
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, context.stopping.set)
    if not await _alone(lock, folder, context.stopping):
        return
    note_terms(folder, settings)
    log.info("observing %s", folder)
    running = [asyncio.create_task(_kept_running(task, context)) for task in tasks]
    await _take_in(intake, context.stopping, spans_came)
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await asyncio.to_thread(_drain, intake)
    intake.close()
    leave_soon()  # all is kept; a thread that still computes an answer nobody waits for may not hold this up


async def _alone(lock: int, folder: Path, stopping: asyncio.Event) -> bool:
    """Wait until no other observer has this folder; False: asked to stop before that.

    One that was to be stopped is gone in `DRAIN_S`. One that stays belongs to another system.
    """
    num_waits = 0
    while not _has(lock):
        if num_waits == 0:
            log.info("another observer watches %s; this one waits", folder)
        elif num_waits * WAIT_S == DRAIN_S + LEAVE_S:
            log.warning(SHARED, folder)
        num_waits += 1
        if await _waited(stopping, WAIT_S):
            return False
    return True


async def _take_in(intake: Intake, stopping: asyncio.Event, spans_came: asyncio.Event) -> None:
    clock, upkeep_at = _Clock(), 0.0
    while not stopping.is_set():
        while await asyncio.to_thread(intake.turn) and not stopping.is_set():
            pass
        if time.monotonic() >= upkeep_at:
            upkeep_at = time.monotonic() + UPKEEP_EVERY_S
            if await asyncio.to_thread(intake.keep_up, clock.now_ns()):
                upkeep_at = time.monotonic() + UPKEEP_PAUSE_S
        await _next_batch(stopping, spans_came, min(BATCH_EVERY_S, max(0.0, upkeep_at - time.monotonic())))


async def _next_batch(stopping: asyncio.Event, spans_came: asyncio.Event, wait_s: float) -> None:
    """Wait so long at most; shorter where spans come, or it is to end."""
    waiting = [asyncio.create_task(event.wait()) for event in (stopping, spans_came)]
    await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    if spans_came.is_set():
        spans_came.clear()
        await _waited(stopping, GATHER_S)


async def _kept_running(task: Task, context: ObserverContext) -> None:
    name = getattr(task, "__qualname__", repr(task))
    while True:
        try:
            await task(context)
            return
        except Exception:
            log.exception("%s failed; it begins again in %g s", name, AGAIN_S)
        await asyncio.sleep(AGAIN_S)


def _drain(intake: Intake) -> None:
    until = time.monotonic() + DRAIN_S
    while intake.turn():
        if time.monotonic() > until:
            log.warning("not all of the journal could be taken in: the rest is at the next start")
            return


async def _waited(event: asyncio.Event, wait_s: float) -> bool:
    """Wait for the event, so long at most; whether it came."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), wait_s)
    return event.is_set()


class _Clock:
    """Wall time that never runs ahead of the monotonic clock."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, ticks_ns: Callable[[], int] = time.monotonic_ns):
        self._wall_ns, self._ticks_ns = wall_ns, ticks_ns
        self._ahead_ns = wall_ns() - ticks_ns()

    def now_ns(self) -> int:
        """Since 1970; never more than what has passed since the start."""
        return min(self._wall_ns(), self._ahead_ns + self._ticks_ns())


def _lock_file(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartupError(
            f"cannot keep a ledger in {folder}: {error.strerror}; set path in [ledger] to a folder you may write to"
        ) from error


def _has(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
