"""What sampling adds to a step: milliseconds a call, cold, by number of rows and kind of request.

    python benchmarks/sampler.py [--vocabulary 151936] [--rows 1 8 32] [--rounds 15]

Random logits: `real` has a body of deviation 2.5 and 40 tokens well above it, as a trained model's rows do; `flat` has
deviation 1, where top-p keeps most of the vocabulary. Between calls 50 MB are read and the process sleeps, so that
logits come from memory and the pool's threads are asleep, as between steps. Medians; the best call beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.kernels.threads import set_threads
from tokenworks.engine.sampler import sample
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Chunk

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "top-p 0.95": {"top_p": 0.95},
    "top-k 50": {"top_k": 50},
    "min-p 0.05": {"min_p": 0.05},
    "top-k 20, top-p 0.8": {"top_k": 20, "top_p": 0.8, "temperature": 0.6},
    "penalties, 4,000 tokens": {"temperature": 0.0, "repetition_penalty": 1.1, "frequency_penalty": 0.1},
    "greedy, 5 logprobs": {"temperature": 0.0, "num_logprobs": 5},
}


def logits_of(shape: str, rows: int, vocabulary: int) -> Tensor:
    """float32 [rows, vocabulary]."""
    random = np.random.default_rng(0)
    logits = random.standard_normal((rows, vocabulary), np.float32)
    if shape == "real":
        logits *= 2.5
        likely = random.integers(vocabulary, size=(rows, 40))
        np.put_along_axis(logits, likely, random.uniform(10, 20, likely.shape).astype(np.float32), axis=1)
    return torch.from_numpy(logits)


def chunks_of(rows: int, settings: dict[str, Any]) -> list[Chunk]:
    """A decoding sequence a row."""
    prompt = [i * 7 % 2_999 for i in range(4_000)]
    sequences = [Sequence(Request(str(i), "m", prompt, Sampling(9, seed=i, **settings)), 16, "f") for i in range(rows)]
    return [Chunk(sequence, len(prompt) - 1, 1, 1) for sequence in sequences]


def cold_ms(logits: Tensor, chunks: list[Chunk], rounds: int) -> list[float]:
    """Of each call but the first two, which compile and count."""
    other = np.ones(50 << 20, np.uint8)
    found = []
    for _ in range(rounds + 2):
        other.max()
        time.sleep(0.02)
        start = time.perf_counter()
        sample(logits, chunks)
        found.append((time.perf_counter() - start) * 1e3)
    return found[2:]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    set_threads(os.cpu_count() or 1)
    print("| logits | request | " + " | ".join(f"{rows} rows" for rows in options.rows) + " |")
    print("|---|---|" + "---:|" * len(options.rows))
    for shape in ("real", "flat"):
        for name, settings in KINDS.items():
            cells = []
            for rows in options.rows:
                with torch.inference_mode():
                    taken = cold_ms(
                        logits_of(shape, rows, options.vocabulary), chunks_of(rows, settings), options.rounds
                    )
                cells.append(f"{statistics.median(taken):.2f} ({min(taken):.2f})")
            print(f"| {shape} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
