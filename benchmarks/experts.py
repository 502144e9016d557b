"""What a mixture of experts costs beside one dense network of the same FLOPs, and what of that is bookkeeping.

    python benchmarks/experts.py [--like qwen3-moe-1.5b] [--threads 1] [--rows 1 8 128 512]

One layer's feed-forward network with random weights in bf16. The dense one is as wide as the experts that a token takes
together. At few rows both are bound by the weights that they read, which differ: the column `MB` says how many, so the
ratio means something from a few rows an expert on. Bookkeeping is the router, the choice, the sorting, and bringing
results back. With one thread it is CPU seconds that count, which a shared machine disturbs little; else wall seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tokenworks.engine.kernels.experts import combine
from tokenworks.engine.kernels.threads import set_threads
from tokenworks.engine.linear import Linear
from tokenworks.engine.models.feed_forward import (
    DenseFeedForward,
    SparseFeedForward,
    choose_experts,
    group_by_expert,
)
from tokenworks.engine.random_checkpoint import SHAPES

ROUNDS = 9


def linear(rows: int, columns: int) -> Linear:
    """A packed random product in bf16."""
    return Linear([torch.randn(rows, columns).mul_(0.02)], None, torch.bfloat16)


def dense(hidden: int, inner: int) -> DenseFeedForward:
    """A gated network."""
    return DenseFeedForward(linear(2 * inner, hidden), linear(hidden, inner))


def bookkeeping(mixture: SparseFeedForward, x: Tensor) -> Callable[[], object]:
    """All that the mixture does but for its experts, on results made up once."""
    results = x.repeat(mixture.num_per_token, 1)

    def run() -> Tensor:
        weights, chosen = choose_experts(mixture.router(x), mixture.num_per_token, mixture.is_normed)
        return combine(results, group_by_expert(chosen, len(mixture.experts)).positions_Tk, weights)

    return run


def median_seconds(calls: dict[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Median of each, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", default="qwen3-moe-1.5b", choices=[n for n in SHAPES if "num_experts" in SHAPES[n]])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 128, 512])
    options = parser.parse_args()
    set_threads(options.threads)
    shape = SHAPES[options.like]
    hidden, inner, used = shape["hidden_size"], shape["moe_intermediate_size"], shape["num_experts_per_tok"]
    experts = [dense(hidden, inner) for _ in range(shape["num_experts"])]
    mixture = SparseFeedForward(linear(shape["num_experts"], hidden), experts, used, shape["norm_topk_prob"])
    whole = dense(hidden, used * inner)
    print("| rows | dense ms (MB) | mixture ms (MB) | ratio | bookkeeping |\n|---:|---:|---:|---:|---:|")
    for rows in options.rows:
        x = torch.randn(rows, hidden).to(torch.bfloat16)
        calls = {"dense": lambda x=x: whole(x), "mixture": lambda x=x: mixture(x), "rest": bookkeeping(mixture, x)}
        with torch.inference_mode():
            found = median_seconds(calls, time.process_time if options.threads == 1 else time.perf_counter)
        cells = [
            f"{found[n] * 1e3:.2f} ({m.step_bytes(rows) / 1e6:.0f})"
            for n, m in (("dense", whole), ("mixture", mixture))
        ]
        ratio, share = found["mixture"] / found["dense"], found["rest"] / found["mixture"]
        print(f"| {rows} | {' | '.join(cells)} | {ratio:.2f} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()
