"""The machine's own ceilings: bytes/s of a streaming read and FLOP/s of a matrix product, with all threads.

    python benchmarks/ceilings.py

A read is measured on matrix-vector products over 1 GB of weights, packed and plain, float32 and bf16, because no single
layout is the fastest on every CPU; the best one is the ceiling that decode is held against. FLOP/s is that of 512 and
2048 rows in bf16 and float32.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from tokenworks.engine.linear import Linear
from tokenworks.worker.environment import prepare_environment

ROWS, COLUMNS, ROUNDS = 6144, 1024, 7


def median_seconds(call: Callable[[], object]) -> float:
    """Median of several rounds after a warm-up."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def read_bytes_per_s(dtype: torch.dtype, is_packed: bool) -> float:
    """Weights read per second by matrix-vector products over 1 GB."""
    weights = [torch.randn(ROWS, COLUMNS).to(dtype) for _ in range(10**9 // (ROWS * COLUMNS * dtype.itemsize))]
    products = [Linear([weight], None, dtype) for weight in weights] if is_packed else []
    row = torch.randn(1, COLUMNS).to(dtype)
    if is_packed:
        seconds = median_seconds(lambda: [product(row) for product in products])
    else:
        seconds = median_seconds(lambda: [torch.nn.functional.linear(row, weight) for weight in weights])
    return sum(weight.nbytes for weight in weights) / seconds


def flops_per_s(dtype: torch.dtype, rows: int) -> float:
    """FLOP/s of `rows` x 1024 x 6144, packed."""
    product = Linear([torch.randn(ROWS, COLUMNS).to(dtype)], None, dtype)
    x = torch.randn(rows, COLUMNS).to(dtype)
    return 2 * rows * ROWS * COLUMNS / median_seconds(lambda: product(x))


def measure() -> dict[str, float]:
    """Every figure, by name; `read` and `bf16` are the ceilings."""
    figures: dict[str, float] = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for is_packed in (True, False):
            key = f"read_{name}_{'packed' if is_packed else 'plain'}_bytes_per_s"
            figures[key] = read_bytes_per_s(dtype, is_packed)
        for rows in (512, 2048):
            figures[f"product_{name}_{rows}_rows_flops_per_s"] = flops_per_s(dtype, rows)
    figures["read_bytes_per_s"] = max(v for k, v in figures.items() if k.startswith("read_"))
    figures["bf16_flops_per_s"] = max(v for k, v in figures.items() if k.startswith("product_bfloat16"))
    return figures


if __name__ == "__main__":
    prepare_environment()
    print(json.dumps({name: round(value) for name, value in measure().items()}, indent=2))
