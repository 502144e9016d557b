"""What has to be looked at again and again, whatever else happens: leases, deadlines, who waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

_log: Final = logging.getLogger(__name__)


async def look_regularly(duties: Sequence[Callable[[], None]], period_s: float) -> NoReturn:
    """Do all of them every `period_s`, until cancelled.

    Each is by itself: one that fails must not keep those who wait from being told.
    """
    while True:
        await asyncio.sleep(period_s)
        for duty in duties:
            try:
                duty()
            except Exception:
                _log.exception("%s failed: this is a bug; the other duties go on", duty.__name__)
