"""The machine's own ceilings, with all threads: bytes/s of a streaming read, operations/s of matrix products.

    python -m benchmarks.engine.ceilings          as JSON; a run takes them at the start of every round

Products are `rows` x K by K x N, the weights packed as the engine packs them and plain, in bf16, float32 and int8; the
best of all shapes and layouts is the ceiling. An operation is a multiplication or an addition.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Final

import torch

from benchmarks.engine.read_probe import ROUNDS, median_seconds, probe
from tokenworks.engine.kernels.threads import set_threads
from tokenworks.engine.linear import Linear
from tokenworks.worker.environment import prepare_environment

SHAPES: Final = ((512, 1024, 6144), (512, 3072, 1024), (2048, 1024, 6144), (2048, 4096, 4096))
"""(rows, K, N): a chunk and a long prompt through the layers of a 0.6 B model, and one large square."""


def products(rows: int, inner: int, outer: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """(Precision and layout, the product) of one shape."""
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "float32")):
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
        packed = Linear([weight], None, dtype)
        yield f"{name} packed", lambda x=x, packed=packed: packed(x)  # type: ignore[misc]
        yield f"{name} plain", lambda x=x, weight=weight: torch.nn.functional.linear(x, weight)  # type: ignore[misc]
    left = torch.randint(-128, 127, (rows, inner), dtype=torch.int8)
    right = torch.randint(-128, 127, (outer, inner), dtype=torch.int8).t()
    yield "int8 plain", lambda: torch._int_mm(left, right)


def probe_products(rounds: int = ROUNDS) -> Iterator[tuple[str, float]]:
    """(What was tried, operations/s), as they come."""
    for rows, inner, outer in SHAPES:
        for name, product in products(rows, inner, outer):
            yield f"{name}, {rows}x{inner}x{outer}", 2 * rows * inner * outer / median_seconds(product, rounds)


def measure(threads: int) -> dict[str, dict[str, float]]:
    """`tried`: every figure by what was tried; `best`: the ceilings, by name."""
    reads, operations = dict(probe(threads)), dict(probe_products())
    best = {"read_bytes_per_s": max(reads.values())}
    for name in ("bf16", "float32", "int8"):
        best[f"{name}_ops_per_s"] = max(rate for tried, rate in operations.items() if tried.startswith(name))
    return {"best": best, "tried": reads | operations}


if __name__ == "__main__":
    prepare_environment()
    set_threads(len(os.sched_getaffinity(0)))
    print(json.dumps(measure(len(os.sched_getaffinity(0)))))
