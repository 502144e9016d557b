"""What a tier's policy keeps, against least-recently-used and the optimum, on recorded traffic.

    python -m benchmarks.kv_policy conversation_trace.jsonl.gz [more traces] [--tokens 0.5 1.5 5 15]
    python -m benchmarks.kv_policy --synthetic --tokens 0.1 0.3 1
    python -m benchmarks.kv_policy --blocks 1000 10000 100000

A trace tells which blocks of its prompts were the same (Mooncake's format, 512 tokens a block; only full blocks are
kept, as in the store). One tier of each size sees the requests in order; what a request computes can be had by the next
one. Costs are those of a card: seconds = 512 tokens x (per token + per pair x context), in the proportion of a 0.6 B
model (its attention costs as much as its products at about 4,000 tokens of context).

Columns, each in percent of all prompt tokens, and in percent of all prompt seconds: `policy` is `TierPolicy`, `by size`
GreedyDual-Size-Frequency over leaves; `plain LRU` notes a prompt's blocks from the first to the last, so that a prefix
goes before what follows it and that lies there in vain; `ideal LRU` notes them from the last to the first; `optimum`
drops what is used again last (Belady 1966; the best there is in tokens, not in seconds). Hits are counted up to the
first block that is missing. The share of the ideal LRU's tokens is the bar: 95 %.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.kv.prompts import BLOCK_TOKENS, ROOT, SYNTHETIC, Prompt, read_prompts, synthetic_prompts
from benchmarks.kv.rivals import Recent, Tier, tiers
from tokenworks.policy.tiering import TierPolicy


class Score(NamedTuple):
    """Shares of everything that had to be computed."""

    tokens: float
    seconds: float


def score(tier: Tier, prompts: list[Prompt]) -> Score:
    """Serve the whole trace."""
    tokens, seconds = 0, 0.0
    for prompt in prompts:
        hits = tier.serve(prompt)
        tokens += hits * BLOCK_TOKENS
        seconds += sum(block.recompute_s for block in prompt.blocks[:hits])
    all_tokens = sum(prompt.num_tokens for prompt in prompts)
    return Score(tokens / all_tokens, seconds / sum(prompt.seconds for prompt in prompts))


def report(title: str, prompts: list[Prompt], sizes: Sequence[float]) -> None:
    """One table."""
    infinite = score(Recent(1 << 60, is_tail_first=True), prompts)
    print(f"\n{title}: {len(prompts)} requests; without a limit ", end="")
    print(f"{infinite.tokens:.1%} of all prompt tokens, {infinite.seconds:.1%} of all prompt seconds\n")
    for size in sizes:
        found = {name: score(tier, prompts) for name, tier in tiers(int(size * 1e6))}
        if size == sizes[0]:
            print(f"| M tokens | {' | '.join(found)} | policy / ideal LRU, tokens | seconds |")
            print(f"|---:|{'---:|' * (len(found) + 2)}")
        cells = [f"{100 * one.tokens:.1f}, {100 * one.seconds:.1f}" for one in found.values()]
        policy, ideal = found["policy"], found["ideal LRU"]
        ratios = [_ratio(policy.tokens, ideal.tokens), _ratio(policy.seconds, ideal.seconds)]
        print(f"| {size:g} | {' | '.join(cells + ratios)} |", flush=True)


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.3f}" if other else "-"


def report_speed(num_blocks: int) -> None:
    """Time of the policy itself in a full tier: prompts of 64 blocks, of which half goes on a prompt of before."""
    rng = random.Random(0)
    policy, tails, number = TierPolicy(num_blocks), [(ROOT, 0)], 0
    counts, taken_s = dict.fromkeys(("used", "wants", "victims", "add + remove"), 0), {}
    taken_s = dict.fromkeys(counts, 0.0)

    def timed(what: str, call: Callable[[], Any]) -> Any:
        start_s = perf_counter()
        result = call()
        counts[what] += 1
        taken_s[what] += perf_counter() - start_s
        return result

    for turn in range(4 * num_blocks // 64):
        parent, depth = rng.choice(tails[-1000:]) if rng.random() < 0.5 else (ROOT, 0)
        is_measured = policy.used_bytes >= num_blocks - 64
        call = timed if is_measured else lambda what, call: call()
        now_s = 3.0 * turn
        if parent != ROOT:
            call("used", partial(policy.used, parent, now_s))
        for _ in range(64):
            number += 1
            name, depth = number.to_bytes(16, "big"), depth + 1
            block = (name, parent, 1, 1.0 + depth / 100, now_s)
            if not call("wants", partial(policy.wants, *block)):
                break
            missing = policy.used_bytes + 1 - num_blocks
            gone = call("victims", partial(policy.victims, missing, lambda name: False)) if missing > 0 else []
            call("add + remove", partial(_exchange, policy, block, gone))
            parent = name
        tails.append((parent, depth))
    cells = [f"{what} {1e6 * taken_s[what] / max(counts[what], 1):.1f} us" for what in counts]
    print(f"{num_blocks} blocks held, mean of {sum(counts.values())} operations: {', '.join(cells)}")


def _exchange(policy: TierPolicy, block: tuple[bytes, bytes, int, float, float], gone: Sequence[bytes]) -> None:
    for name in gone:
        policy.remove(name)
    policy.add(*block)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--tokens", nargs="+", type=float, default=[0.5, 1.5, 5, 15], help="sizes, in millions")
    parser.add_argument("--blocks", nargs="*", type=int, default=[], help="time the policy with so many blocks held")
    parser.add_argument("--synthetic", action="store_true", help="traffic that was made up to mislead the policy")
    options = parser.parse_args(arguments)
    for num_blocks in options.blocks:
        report_speed(num_blocks)
    for path in options.traces:
        report(path.name, read_prompts(path), options.tokens)
    for kind in SYNTHETIC if options.synthetic else ():
        report(kind, synthetic_prompts(kind), options.tokens)


if __name__ == "__main__":
    main()
