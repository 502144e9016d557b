"""How much of the memory's read rate a decode step of one sequence reaches, and what it spends outside the model.

    python benchmarks/decode_bandwidth.py CHECKPOINT [--precision bf16,int8,int4] [--contexts 16,512]

On a shared machine the read rate changes by a factor of two within minutes, so a ceiling from the start of a run says
little about a step later in it. Here every sixth step is followed by a bare read of 300 MB through the native library,
and the medians of the two are compared: MBU = (weights + KV read a step) / time in the model / read rate.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

STEPS, READ_EVERY, READ_BYTES = 60, 6, 300 << 20


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--precision", default="bf16,int8,int4")
    parser.add_argument("--contexts", default="16,512")
    options = parser.parse_args()
    print("| weights | context | MB a step | model, ms | GB/s | read rate, GB/s | MBU | outside the model |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for precision in options.precision.split(","):
        engine = build(options.checkpoint, precision)
        for context in map(int, options.contexts.split(",")):
            print(row(engine, precision, context), flush=True)


def build(checkpoint: Path, precision: str) -> Any:
    """The engine as it would serve, without speculation."""
    from tokenworks.worker.environment import prepare_environment

    prepare_environment()
    import msgspec
    import torch

    from tokenworks.contract.config import EngineSettings
    from tokenworks.engine.build import build_engine
    from tokenworks.engine.kernels.threads import set_threads
    from tokenworks.engine.native import library

    if reason := library.missing():
        sys.exit(f"the native library, which reads for the ceiling, cannot be used: {reason}")
    given = {"quantize": "none" if precision == "bf16" else precision, "speculation": "off", "max_context_tokens": 4096}
    set_threads(torch.get_num_threads())
    return build_engine(checkpoint, msgspec.convert(given, EngineSettings), 1, lambda done, total: None)


def row(engine: Any, precision: str, context: int) -> str:
    """One line of the table."""
    import torch

    from tokenworks.contract.request import Request, Sampling
    from tokenworks.engine.native import library

    model, in_model, steps, reads = engine.model, [], [], []

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return model(*arguments)
        finally:
            in_model.append(time.perf_counter() - start)

    memory = torch.zeros(READ_BYTES, dtype=torch.uint8)
    timed.config = model.config  # type: ignore[attr-defined]
    engine.model = timed
    prompt = [random.randrange(100, 30_000) for _ in range(context)]
    engine.add(Request("r", "", prompt, Sampling(max_tokens=STEPS + 8, temperature=0)))
    for _ in range(4 + -(-context // engine.limits.max_step_tokens)):
        engine.step()
    in_model.clear()
    for index in range(STEPS):
        start = time.perf_counter()
        engine.step()
        steps.append(time.perf_counter() - start)
        if index % READ_EVERY == 0:
            start = time.perf_counter()
            library.load().tw_read(memory.data_ptr(), READ_BYTES, torch.get_num_threads())
            reads.append(READ_BYTES / (time.perf_counter() - start))
    engine.cancel("r")
    engine.model = model
    num_bytes = model.step_bytes(1) + (context + STEPS // 2) * engine.spec.bytes_per_token
    seconds, rate = statistics.median(in_model), statistics.median(reads)
    outside = 1 - seconds / statistics.median(steps)
    return (
        f"| {precision} | {context} | {num_bytes / 1e6:.0f} | {seconds * 1e3:.1f} | {num_bytes / seconds / 1e9:.1f} "
        f"| {rate / 1e9:.1f} | {num_bytes / seconds / rate:.2f} | {outside:.1%} |"
    )


if __name__ == "__main__":
    main()
