"""What the device can do at most, measured: the denominators of MFU and MBU. Half a second at start, on all threads.

Both are the best of a few tries, because a neighbour can only slow them down. FLOP/s: a product of square matrices in
the model's dtype, by the library that multiplies a prefill; it grows until one takes long enough to be timed. Bytes:
reading memory that is larger than the caches, by the native library, which does nothing else; without it, summing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import torch

from tokenworks.contract.memory import free_memory_bytes
from tokenworks.engine.native import library

CPUS: Final = Path("/sys/devices/system/cpu")
TRIES: Final = 3
LONG_ENOUGH_S: Final = 0.01  # the threads' start and the clock are lost in it
SIZES: Final = (512, 1024, 2048, 4096)  # of the square matrices: of the order of a layer's
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 1 << 30
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Peaks(NamedTuple):
    """Per second; 0: not measured."""

    flops: float = 0.0
    bytes_per_s: float = 0.0


@torch.inference_mode()
def measure_peaks(dtype: torch.dtype, threads: int, cpus: Path = CPUS) -> Peaks:
    """Of this machine's processor, for matrices of `dtype`."""
    return Peaks(_peak_flops(dtype), _peak_read(threads, cpus))


def _peak_flops(dtype: torch.dtype) -> float:
    best = 0.0
    for size in SIZES:
        left, right = torch.rand(2, size, size).to(dtype)
        product = torch.empty(size, size, dtype=dtype)
        seconds = _best_s(lambda: torch.mm(left, right, out=product))  # noqa: B023 (called at once)
        best = max(best, 2 * size**3 / seconds)
        if seconds > LONG_ENOUGH_S:
            break
    return best


def _peak_read(threads: int, cpus: Path) -> float:
    """No more than a quarter of the free memory is taken; where that is less than the caches, nothing is said."""
    cached = cache_bytes(cpus)
    num_bytes = min(max(3 * cached, _LEAST_BYTES), _MOST_BYTES, free_memory_bytes() // 4) // 4096 * 4096
    if num_bytes < 2 * cached or num_bytes == 0:
        return 0.0
    memory = torch.ones(num_bytes // 4)  # written, so that every page is there
    return num_bytes / _best_s(_reader(memory, threads))


def _reader(memory: torch.Tensor, threads: int) -> Callable[[], object]:
    if library.missing():
        return memory.sum
    read = library.load().tw_read
    return lambda: read(memory.data_ptr(), memory.nbytes, threads)


def _best_s(call: Callable[[], object]) -> float:
    """Of the tries after a first one."""
    call()
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)


def cache_bytes(cpus: Path) -> int:
    """Of all last-level caches together, as Linux tells (a large processor has one for every few cores); or 32 MiB."""
    found: dict[str, int] = {}  # by the cores that share it
    for cpu in cpus.glob("cpu[0-9]*"):
        with suppress(OSError, ValueError, LookupError):
            last = max((cpu / "cache").glob("index[0-9]*"), key=lambda folder: int((folder / "level").read_text()))
            size = (last / "size").read_text().strip()
            found[(last / "shared_cpu_list").read_text()] = int(size[:-1]) * _UNITS[size[-1]]
    return sum(found.values()) or 32 << 20
