"""A child that the supervisor started dies with it, however the supervisor dies.

On Linux the kernel does it: it sends SIGKILL to the child when the thread that started it (the supervisor's main one)
ends, even by SIGKILL. Elsewhere a thread looks once a second whether the process has been handed to another parent.
Nothing needs to be drained then: the gateway, and with it every client's connection, dies in the same moment.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with(parent_pid: int) -> None:
    """Tie this process to its parent; ends it at once if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent_pid,), daemon=True).start()
    if os.getppid() != parent_pid:
        os._exit(1)


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1.0)
    os._exit(1)
