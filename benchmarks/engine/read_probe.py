"""How many bytes a second the cores can read from memory: a streaming reduction over 1 GiB, larger than any cache.

No single way of reading is the fastest on every machine, so several are tried and the best median is the ceiling:
each thread its own contiguous part, or chunks in turn; integer xor, float sum, and xor with software prefetch; one
thread up to all; memory in plain pages and in huge ones (`madvise`). Loops run over slices, not over offsets into the
whole: written with offsets, the same reductions read a third as much or less.
"""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, prange, set_num_threads, types
from numba.extending import intrinsic
from numpy.typing import NDArray

BUFFER_BYTES: Final = 1 << 30
ROUNDS: Final = 5
CHUNK_WORDS: Final = 8192  # 64 KiB: the chunks that threads take in turn
AHEAD_WORDS: Final = 512  # 4 KiB: how far ahead is prefetched
LINE_WORDS: Final = 8  # of a cache line
TILE_WORDS: Final = 64  # read between two rounds of prefetching

Words = NDArray[np.int64]
Reader = Callable[[Words, int], Any]


@intrinsic
def _prefetch(typing_context: Any, words: Any, index: Any) -> Any:  # numba passes the first argument itself
    """Ask for the cache line of `words[index]`, for reading, to stay in all levels."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(words, index), generate


@njit(nogil=True)
def _xor(words: Words) -> np.int64:
    total = np.int64(0)
    for index in range(words.size):
        total ^= words[index]
    return total


@njit(nogil=True)
def _xor_with_prefetch(words: Words) -> np.int64:
    total = np.int64(0)
    for start in range(0, words.size - TILE_WORDS + 1, TILE_WORDS):
        if start + AHEAD_WORDS + TILE_WORDS <= words.size:
            for line in range(0, TILE_WORDS, LINE_WORDS):
                _prefetch(words, np.int64(start + AHEAD_WORDS + line))  # type: ignore[call-arg]
        tile = words[start : start + TILE_WORDS]
        for index in range(TILE_WORDS):
            total ^= tile[index]
    return total


@njit(nogil=True, fastmath=True)
def _sum(words: Words) -> np.float32:
    floats = words.view(np.float32)
    total = np.float32(0)
    for index in range(floats.size):
        total += floats[index]
    return total


def _in_parts(reduce: Any) -> Reader:
    """Each thread reads its own contiguous part."""

    @njit(parallel=True)
    def read(words: Words, parts: int) -> Any:
        results = np.zeros(parts)
        part = words.size // parts
        for index in prange(parts):
            results[index] = reduce(words[index * part : (index + 1) * part])
        return results.sum()

    return read


def _in_turn(reduce: Any) -> Reader:
    """Threads take chunks of 64 KiB in turn."""

    @njit(parallel=True)
    def read(words: Words, parts: int) -> Any:
        results = np.zeros(parts)
        chunks = words.size // CHUNK_WORDS
        for index in prange(parts):
            for chunk in range(index, chunks, parts):
                results[index] += reduce(words[chunk * CHUNK_WORDS : (chunk + 1) * CHUNK_WORDS])
        return results.sum()

    return read


def patterns() -> dict[str, Reader]:
    """Ways of reading, by name."""
    return {
        "xor, parts": _in_parts(_xor),
        "xor, in turn": _in_turn(_xor),
        "xor and prefetch, parts": _in_parts(_xor_with_prefetch),
        "float32 sum, parts": _in_parts(_sum),
        "float32 sum, in turn": _in_turn(_sum),
    }


def make_buffer(is_huge: bool, num_bytes: int = BUFFER_BYTES) -> Words:
    """Memory filled with ones, every page touched; in huge pages where asked and where the system gives them."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if is_huge and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    words = np.frombuffer(memory, np.int64)
    words.view(np.float32)[:] = 1.0
    return words


def thread_counts(threads: int) -> list[int]:
    """One, half and all."""
    return sorted({1, max(1, threads // 2), threads})


def probe(threads: int, num_bytes: int = BUFFER_BYTES, rounds: int = ROUNDS) -> Iterator[tuple[str, float]]:
    """(What was tried, bytes/s: the median of the rounds), as they come."""
    readers = patterns()
    for is_huge in (False, True):
        words = make_buffer(is_huge, num_bytes)
        for name, read in readers.items():
            for count in thread_counts(threads):
                label = f"{name}, {count} threads, {'huge' if is_huge else 'plain'} pages"
                yield label, num_bytes / median_seconds(_call(read, words, count), rounds)


def _call(read: Reader, words: Words, count: int) -> Callable[[], object]:
    def call() -> object:
        set_num_threads(count)
        return read(words, count)

    return call


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """Median of several calls after one that is not timed."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
