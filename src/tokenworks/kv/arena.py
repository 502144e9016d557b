"""The memory that the store and its workers share: anonymous (a memfd), mapped by each of them, gone with the last.

It has no name in the file system: nothing is left behind by SIGKILL and the size of `/dev/shm` does not matter. Other
processes of the same user open it through `/proc/PID/fd/N`. Pages come as they are first written, which costs a block
of 3.5 MiB as much as ten copies of it, in every process that maps them: so each pages its mapping in ahead, in a thread
that runs when nobody else wants the core.

Knows bytes and bounds only. What a client maps may change under it at any time: whoever reads verifies a copy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from contextlib import suppress
from typing import Final

from tokenworks.contract.errors import StartupError, TokenworksError

_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; older kernels refuse it, and pages then come as they are written
_PAGE_IN_BYTES: Final = 4 << 20  # at a time: about as much as one block
_LEAST_URGENT: Final = 19


class ArenaError(TokenworksError):
    """The store's memory cannot be reached, or a place in it does not exist."""

    code = "kv_arena"


class Arena:
    """Mapped shared memory of `num_bytes`."""

    def __init__(self, path: str, num_bytes: int, memory: memoryview) -> None:
        self.path = path
        self.num_bytes = num_bytes
        self._memory = memory

    def view(self, offset: int, num_bytes: int) -> memoryview:
        """Writable memory of one place; raises ArenaError where the arena does not reach as far."""
        if offset < 0 or num_bytes < 0 or offset + num_bytes > self.num_bytes:
            raise ArenaError(f"a place of {num_bytes} bytes at {offset} is not within {self.num_bytes} bytes of memory")
        return self._memory[offset : offset + num_bytes]

    def page_in(self) -> threading.Thread:
        """Have all of it paged in, behind everybody's back; the thread ends when that is done, or cannot be done."""
        thread = threading.Thread(target=self._page_in, name="kv-page-in", daemon=True)
        thread.start()
        return thread

    def _page_in(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_URGENT)
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for offset in range(0, self.num_bytes, _PAGE_IN_BYTES):
            place = self.view(offset, min(_PAGE_IN_BYTES, self.num_bytes - offset))
            if madvise(ctypes.addressof(ctypes.c_char.from_buffer(place)), len(place), _MADV_POPULATE_WRITE):
                return


def create_arena(num_bytes: int, free_bytes: int) -> Arena:
    """New memory of this process; raises StartupError where it is more than is free, or cannot be had here."""
    if num_bytes > free_bytes:
        raise StartupError(
            f"the KV store was given {num_bytes / 2**30:.1f} GiB of memory and {free_bytes / 2**30:.1f} GiB are free: "
            f"lower --kv-host-bytes (kv.host_bytes) below that, and leave room for the workers"
        )
    if sys.platform != "linux":
        raise StartupError("the KV store needs Linux: it shares memory through memfd_create and /proc")
    descriptor = os.memfd_create("tokenworks-kv", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, num_bytes)
    memory = memoryview(mmap.mmap(descriptor, num_bytes))
    return Arena(f"/proc/{os.getpid()}/fd/{descriptor}", num_bytes, memory)  # the descriptor stays open for the others


def open_arena(path: str, num_bytes: int) -> Arena:
    """Another process's memory; raises ArenaError with what to do."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ArenaError(
            f"cannot open the KV store's memory at {path} ({error.strerror}): a worker and its store run on the same "
            "host, as the same user, in the same container"
        ) from error
    try:
        if os.fstat(descriptor).st_size != num_bytes:
            raise ArenaError(f"{path} does not have {num_bytes} bytes: it is not the store's memory any more")
        return Arena(path, num_bytes, memoryview(mmap.mmap(descriptor, num_bytes)))
    except (OSError, ValueError) as error:
        raise ArenaError(f"cannot map the KV store's memory at {path}: {error}") from error
    finally:
        os.close(descriptor)
