"""The observer's task that looks for alerts: what it says where it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import LedgerError, LedgerMissing
from tokenworks.observe.alerting.alerts import Lookout, _every

PATIENCE_S = 20.0
SEVERAL = 3


async def look_several_times(folder: Path, error: LedgerError) -> None:
    """Until the ledger could not be opened for the third time."""
    looked = asyncio.Event()
    times = 0
    loop = asyncio.get_running_loop()

    def cannot_open() -> NoReturn:
        nonlocal times
        times += 1
        if times == SEVERAL:
            loop.call_soon_threadsafe(looked.set)
        raise error

    task = loop.create_task(_every(Lookout(cannot_open, Settings(), folder), 0.001, ()))
    async with asyncio.timeout(PATIENCE_S):
        await looked.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("make", "warnings"), [(LedgerMissing, 0), (LedgerError, 1)], ids=["there is none yet", "it cannot be read"]
)
async def test_a_first_start_is_no_trouble_and_trouble_is_told_once(
    make: Callable[[str], LedgerError], warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await look_several_times(tmp_path, make("it is so"))
    assert len([record for record in caplog.records if "could not be looked for" in record.message]) == warnings
