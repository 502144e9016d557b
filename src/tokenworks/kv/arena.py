"""The memory that the store and its workers share: anonymous (a memfd), mapped by each of them, gone with the last.

It has no name in the file system: nothing is left behind by SIGKILL and the size of `/dev/shm` does not matter. Other
processes of the same user open it through `/proc/PID/fd/N`.

Pages that come as they are first written cost a block of 3.5 MiB as much as ten copies of it, and four copies more in
every other process that maps them. So the store has all of its memory allocated when it starts, while workers load
their model, and each process has its mapping paged in ahead, many pages at a time: 0.8 ms of a processor a block for
the one, 0.35 for the other.

Knows bytes and bounds only. What a client maps may change under it at any time: whoever reads verifies a copy.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final

from tokenworks.contract.errors import StartupError, TokenworksError
from tokenworks.contract.memory import STORE_MEMORY

_MADV_POPULATE_READ: Final = 22
"""Linux 5.14; older kernels refuse it, and pages then come as they are written. For reading, because that maps several
at once (and for writing as well, this being shared memory): half the cost of MADV_POPULATE_WRITE."""
_PAGE_IN_BYTES: Final = 4 << 20  # at a time: about as much as one block
_BURST_S: Final = 10.0
"""Of paging in, at the priority of everything else; a worker's model takes longer to load. What is left then is done
when nobody else wants the core."""
_LEAST_URGENT: Final = 19


class ArenaError(TokenworksError):
    """The store's memory cannot be reached, or a place in it does not exist."""

    code = "kv_arena"


class Arena:
    """Mapped shared memory of `num_bytes`; `descriptor`: its open file, in the process that made it."""

    def __init__(self, path: str, num_bytes: int, memory: memoryview, descriptor: int | None = None) -> None:
        self.path = path
        self.num_bytes = num_bytes
        self._memory = memory
        self._descriptor = descriptor

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
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        hurried_until_s = time.monotonic() + _BURST_S
        for offset in range(0, self.num_bytes, _PAGE_IN_BYTES):
            if time.monotonic() > hurried_until_s:
                hurried_until_s = math.inf
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_URGENT)
            place = self.view(offset, min(_PAGE_IN_BYTES, self.num_bytes - offset))
            if not self._allocate(offset, len(place)):
                return
            if madvise(ctypes.addressof(ctypes.c_char.from_buffer(place)), len(place), _MADV_POPULATE_READ):
                return

    def _allocate(self, offset: int, num_bytes: int) -> bool:
        """Have the system give these bytes, where they are ours to ask for; False where it has no more."""
        if self._descriptor is not None:
            try:
                os.posix_fallocate(self._descriptor, offset, num_bytes)
            except OSError:
                return False
        return True


def create_arena(num_bytes: int, free_bytes: int) -> Arena:
    """New memory of this process; raises StartupError where it is more than is free, or cannot be had here."""
    if num_bytes > free_bytes:
        raise StartupError(
            f"the KV store was given {num_bytes / 2**30:.1f} GiB of memory and {free_bytes / 2**30:.1f} GiB are free: "
            f"lower --kv-host-bytes (kv.host_bytes) below that, and leave room for the workers"
        )
    if sys.platform != "linux":
        raise StartupError("the KV store needs Linux: it shares memory through memfd_create and /proc")
    try:
        descriptor = os.memfd_create(STORE_MEMORY, os.MFD_CLOEXEC)
        os.ftruncate(descriptor, num_bytes)
        memory = memoryview(mmap.mmap(descriptor, num_bytes))
    except OSError as error:
        raise StartupError(
            f"the KV store cannot have {num_bytes / 2**30:.1f} GiB of memory ({error.strerror}): raise `ulimit -f` and "
            "`ulimit -v`, which bound shared memory too, or lower --kv-host-bytes (kv.host_bytes)"
        ) from error
    # The descriptor stays open for the others.
    return Arena(f"/proc/{os.getpid()}/fd/{descriptor}", num_bytes, memory, descriptor)


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
