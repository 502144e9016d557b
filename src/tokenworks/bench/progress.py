"""The live line under a running load: done, in flight, failed and tokens per second, on stderr.

It reads the run's `Tally` four times a second from the event loop's own thread, so drawing never competes with the
time stamping for the interpreter lock at an unforeseen moment. Off where stderr is not a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tokenworks.bench.run import Tally

REFRESH_S = 0.25


@contextlib.asynccontextmanager
async def show_progress(tally: Tally, total: int | None, console: Console) -> AsyncIterator[None]:
    """Show the tally while the body runs; `total` is None where only the duration bounds the run."""
    if not console.is_terminal:
        yield
        return
    columns = SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task_id = progress.add_task("", total=total)
        refresher = asyncio.create_task(_refresh(progress, task_id, tally))
        try:
            yield
        finally:
            refresher.cancel()
            await asyncio.gather(refresher, return_exceptions=True)


async def _refresh(progress: Progress, task_id: TaskID, tally: Tally) -> None:
    last_events, last_s = 0, time.monotonic()
    while True:
        await asyncio.sleep(REFRESH_S)
        now_s = time.monotonic()
        events_per_s = (tally.token_events - last_events) / (now_s - last_s)
        last_events, last_s = tally.token_events, now_s
        done = tally.ok + tally.failed + tally.rejected
        progress.update(task_id, completed=done, description=describe(tally, events_per_s), refresh=True)


def describe(tally: Tally, events_per_s: float) -> str:
    """The line's text; a count that matters only when it is above zero stays away until then."""
    parts = [f"{tally.in_flight} in flight", f"{events_per_s:,.0f} tok/s"]
    if tally.rejected:
        parts.append(f"[yellow]{tally.rejected} rejected[/yellow]")
    if tally.failed:
        parts.append(f"[red]{tally.failed} failed[/red]")
    return "  ".join(parts)
