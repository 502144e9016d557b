"""What KV in int8 gains in speed: attention of one layer over KV in bf16 and in int8, alternating, in one run.

    python benchmarks/kv_attention.py [--context 32768] [--rounds 9] [--threads 2]

Heads as in Qwen3-0.6B (16 on 8, of 128) and Llama-3.2-1B (32 on 8, of 64). Decode reads the whole context once: one row
over all of it, and eight rows over an eighth each, with their blocks scattered; prefill is 512 rows behind an eighth.
The portable kernels and, where it was built and can run, the native library. Medians; the GB/s are bytes of KV (scales
included) over the time. Other work on the machine moves the times more than the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from ctypes import byref
from dataclasses import dataclass
from typing import Any

from tokenworks.worker.environment import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tokenworks.contract.kv import KVSpec  # noqa: E402
from tokenworks.engine.attention import attend  # noqa: E402
from tokenworks.engine.batch import DecodeRows, PrefillChunk, StepBatch  # noqa: E402
from tokenworks.engine.kernels.threads import set_threads  # noqa: E402
from tokenworks.engine.kv_cache import KVCache  # noqa: E402
from tokenworks.engine.native import library  # noqa: E402
from tokenworks.engine.native.step import batch_struct, kv_struct  # noqa: E402

BLOCK_TOKENS = 32
NEW_TOKENS = 512
SHAPES = [(16, 8, 128), (32, 8, 64)]  # query heads, kv heads, head_dim
DTYPES = ("bfloat16", "int8")
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A step's rows, and how many tokens of KV it reads; 0 where reading them is not what takes the time."""

    name: str
    batch: StepBatch
    num_rows: int
    tokens_read: int


def cases(context: int) -> list[Case]:
    """Decode of one row and of eight, and a chunk of prefill."""
    nothing = torch.zeros(0, dtype=torch.int64)
    made = []
    for num_rows in (1, 8):
        blocks = np.random.default_rng(0).permutation(context // BLOCK_TOKENS).astype(np.int32).reshape(num_rows, -1)
        lengths = np.full(num_rows, context // num_rows, np.int32)
        decode = DecodeRows(blocks, lengths, np.arange(num_rows, dtype=np.int32))
        batch = StepBatch(torch.zeros(num_rows, dtype=torch.int64), nothing, nothing, nothing, decode, ())
        made.append(Case(f"decode {num_rows} x {context // num_rows:,}", batch, num_rows, context))
    before = context // 8
    chunk = PrefillChunk(0, NEW_TOKENS, before, torch.arange(before + NEW_TOKENS))
    no_decode = DecodeRows(np.zeros((0, 0), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    batch = StepBatch(torch.zeros(NEW_TOKENS, dtype=torch.int64), nothing, nothing, nothing, no_decode, (chunk,))
    return [*made, Case(f"prefill {NEW_TOKENS} after {before:,}", batch, NEW_TOKENS, 0)]


def random_cache(dtype: str, kv_heads: int, head_dim: int, context: int) -> KVCache:
    """One layer, filled."""
    cache = KVCache(KVSpec("", 1, kv_heads, head_dim, BLOCK_TOKENS, dtype), context // BLOCK_TOKENS)
    if cache.scales is None:
        cache.data.normal_()
    else:
        cache.data.random_(-127, 128)
        cache.scales.fill_(1 / 73)  # the standard deviation of the codes: values of about 1
    return cache


def portable(query_THD: Tensor, cache: KVCache, batch: StepBatch) -> Run:
    """Through PyTorch and Numba."""
    return lambda: attend(query_THD, cache, 0, batch, None)


def native(query_THD: Tensor, cache: KVCache, batch: StepBatch) -> Run:
    """Through the library; the structs are built once, as a step does for all layers."""
    heads, head_dim = query_THD.shape[1:]
    layers = (library.LayerStruct * 1)(library.LayerStruct())
    kv_heads = cache.spec.num_kv_heads
    model = library.ModelStruct(num_layers=1, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, layers=layers)
    pieces = batch.decode.splits(None)
    kept = (
        torch.empty_like(query_THD),
        torch.empty(len(pieces.rows), heads, head_dim),
        torch.empty(len(pieces.rows), heads, 2),
    )
    space = library.WorkspaceStruct(query=query_THD.data_ptr(), attention=kept[0].data_ptr())
    space.partial_values, space.partial_stats = kept[1].data_ptr(), kept[2].data_ptr()
    kv, rows, threads = kv_struct(cache), batch_struct(batch, [pieces]), torch.get_num_threads()

    def run() -> tuple[Tensor, ...]:
        library.load().tw_attend(byref(model), byref(kv), byref(rows), byref(space), 0, threads)
        return kept

    return run


def median_seconds(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Of each, taking turns; the first round is for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start_s)
    return {name: float(np.median(found[1:])) for name, found in seconds.items()}


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    set_threads(options.threads)
    kernels = {"portable": portable} if library.missing() else {"portable": portable, "native": native}
    print("| heads | kernels | | bf16, ms | int8, ms | bf16 / int8 | bf16, GB/s | int8, GB/s |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for heads, kv_heads, head_dim in SHAPES:
        caches = {dtype: random_cache(dtype, kv_heads, head_dim, options.context) for dtype in DTYPES}
        for case in cases(options.context):
            query = torch.randn(case.num_rows, heads, head_dim).bfloat16()
            for name, kind in kernels.items():
                runs = {dtype: kind(query, cache, case.batch) for dtype, cache in caches.items()}
                seconds = median_seconds(runs, options.rounds)
                print(
                    f"| {heads} on {kv_heads}, of {head_dim} | {name} | {case.name} | {cells(seconds, case, caches)} |"
                )


def cells(seconds: dict[str, float], case: Case, caches: dict[str, KVCache]) -> str:
    """Milliseconds, their ratio, and for decode the rate at which KV is read."""
    times = " | ".join(f"{1e3 * seconds[dtype]:.2f}" for dtype in DTYPES)
    ratio = seconds["bfloat16"] / seconds["int8"]
    bytes_read = {dtype: caches[dtype].spec.bytes_per_token * case.tokens_read for dtype in DTYPES}
    rates = [f"{bytes_read[dtype] / seconds[dtype] / 1e9:.1f}" if case.tokens_read else "" for dtype in DTYPES]
    return f"{times} | {ratio:.2f} | {' | '.join(rates)}"


if __name__ == "__main__":
    main()
