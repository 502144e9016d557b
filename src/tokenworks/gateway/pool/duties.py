"""What has to be looked at again and again, whatever else happens: leases, deadlines, who waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

Duty = Callable[[float], None]
"""Is called with the monotonic seconds at which it was due."""

_log: Final = logging.getLogger(__name__)


async def look_regularly(duties: Sequence[Duty], period_s: float) -> NoReturn:
    """Do all of them every `period_s`, until cancelled.

    A look that comes late says that this process did not run (a machine that was suspended, or has too much to do):
    what the workers said meanwhile lies unread, and is heard before the next look; hence the clock at which it was due.
    Each duty is by itself: one that fails must not keep those who wait from being told.
    """
    while True:
        due_s = time.monotonic() + period_s
        await asyncio.sleep(period_s)
        for duty in duties:
            try:
                duty(due_s)
            except Exception:
                _log.exception("%s failed: this is a bug; the other duties go on", duty.__name__)
