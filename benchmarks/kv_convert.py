"""How fast a block is converted from one dtype to another, beside copying it.

    python benchmarks/kv_convert.py [--repeats 9]

A block of 32 tokens of the Qwen3-0.6B shape (28 layers, 8 heads of 128; 3.5 MiB in bf16), random normal values, one
thread. GB/s of what is read and of what is written together, median; each round runs every pair once, in turn.
"""

from __future__ import annotations

import argparse
from itertools import product
from statistics import median
from time import perf_counter

import msgspec
import numpy as np

from tokenworks.contract.kv import KVSpec
from tokenworks.kv.convert import convert

DTYPES = ("float32", "bfloat16", "float16", "int8")
SPEC = KVSpec("model", num_layers=28, num_kv_heads=8, head_dim=128, block_tokens=32, dtype="float32")


def spec_of(dtype: str) -> KVSpec:
    """The shape, stored so."""
    return msgspec.structs.replace(SPEC, dtype=dtype)


def payloads() -> dict[str, bytearray]:
    """The same block in every dtype."""
    count = SPEC.bytes_per_block // 4
    first = np.random.default_rng(0).standard_normal(count, np.float32).tobytes()
    found = {}
    for dtype in DTYPES:
        found[dtype] = bytearray(spec_of(dtype).bytes_per_block)
        convert(memoryview(first), SPEC, spec_of(dtype), memoryview(found[dtype]))
    return found


def seconds(payload: bytearray, source: str, target: str, out: bytearray) -> float:
    """Of one conversion."""
    start_s = perf_counter()
    convert(memoryview(payload), spec_of(source), spec_of(target), memoryview(out))
    return perf_counter() - start_s


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    blocks = payloads()
    outs = {dtype: bytearray(spec_of(dtype).bytes_per_block) for dtype in DTYPES}
    pairs = list(product(DTYPES, DTYPES))
    rounds = [[seconds(blocks[a], a, b, outs[b]) for a, b in pairs] for _ in range(options.repeats)]
    times = dict(zip(pairs, (median(column) for column in zip(*rounds, strict=True)), strict=True))
    print(f"| from / to, GB/s (ms) | {' | '.join(DTYPES)} |\n|---|{'---:|' * len(DTYPES)}")
    for a in DTYPES:
        cells = [f"{(len(blocks[a]) + len(outs[b])) / times[a, b] / 1e9:.1f} ({1e3 * times[a, b]:.1f})" for b in DTYPES]
        print(f"| {a} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
