"""What a tier's policy keeps, against least-recently-used and the optimum, on recorded traffic.

    python benchmarks/kv_policy.py conversation_trace.jsonl.gz [more traces] [--tokens 0.5 1.5 5 15]
    python benchmarks/kv_policy.py --synthetic --tokens 0.1 0.3 1
    python benchmarks/kv_policy.py --blocks 1000 10000 100000

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
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from tokenworks.plan.traces import MOONCAKE_BLOCK_TOKENS as BLOCK_TOKENS
from tokenworks.plan.traces import read_trace
from tokenworks.policy.tiering import TierPolicy

PER_TOKEN_S = 2.8e-3
PER_PAIR_S = 7e-7
ROOT = b"root"


class Block(NamedTuple):
    """One block of one prompt; it takes one byte a token."""

    name: bytes
    parent: bytes
    depth: int

    @property
    def recompute_s(self) -> float:
        """What the card says."""
        return BLOCK_TOKENS * (PER_TOKEN_S + PER_PAIR_S * BLOCK_TOKENS * (self.depth + 0.5))


class Prompt(NamedTuple):
    """One request."""

    arrival_s: float
    num_tokens: int
    blocks: list[Block]
    next_uses: list[int]  # the request that uses each block next; beyond the last one: never

    @property
    def seconds(self) -> float:
        """To compute all of it."""
        return self.num_tokens * (PER_TOKEN_S + PER_PAIR_S * self.num_tokens / 2)


class Tier(Protocol):
    """What is compared."""

    def serve(self, prompt: Prompt) -> int:
        """How many of its leading blocks are held; afterwards it has been seen."""


def read_prompts(path: Path) -> list[Prompt]:
    """The requests of a trace that say what they contain."""
    prompts = []
    for record in read_trace(path).records:
        ids = record.block_ids[: record.input_tokens // BLOCK_TOKENS]
        prompts.append(_prompt(record.arrival_s, record.input_tokens, ids))
    return _with_next_uses(prompts)


def _prompt(arrival_s: float, num_tokens: int, ids: Sequence[int]) -> Prompt:
    names = [ROOT, *(number.to_bytes(8, "big") for number in ids)]
    blocks = [Block(name, parent, at) for at, (parent, name) in enumerate(pairwise(names))]
    return Prompt(arrival_s, num_tokens, blocks, [])


def _with_next_uses(prompts: list[Prompt]) -> list[Prompt]:
    seen: dict[bytes, int] = {}
    for number in range(len(prompts) - 1, -1, -1):
        prompts[number].next_uses[:] = [seen.get(block.name, len(prompts)) for block in prompts[number].blocks]
        seen.update((block.name, number) for block in prompts[number].blocks)
    return prompts


SYNTHETIC = {
    "recent": "chats; whoever spoke lately is likely to go on",
    "uniform": "chats; of the 60 that are open all are alike",
    "shift": "few documents, others after every 500 requests",
    "loop": "100 documents in turn",
    "phase": "chats, and every other 700 requests nothing but prompts that never come again",
}


def synthetic_prompts(kind: str, count: int = 4000) -> list[Prompt]:
    """Made-up traffic, a request a second; a conversation ends after 60 blocks."""
    rng, ids, now_s = random.Random(1), itertools.count(1), 0.0
    documents = [[next(ids) for _ in range(20)] for _ in range(200)]
    open_chats: list[list[int]] = []
    prompts = []
    for number in range(count):
        now_s += rng.expovariate(1.0)
        before = _before(kind, number, rng, documents, open_chats)
        chat = (before if len(before) <= 60 else []) + [next(ids) for _ in range(rng.randint(1, 6))]
        open_chats.append(chat)
        prompts.append(_prompt(now_s, BLOCK_TOKENS * len(chat), chat))
    return _with_next_uses(prompts)


def _before(
    kind: str, number: int, rng: random.Random, documents: list[list[int]], chats: list[list[int]]
) -> list[int]:
    """What the next request goes on from."""
    if kind == "shift":
        return documents[(number // 500 * 25 + min(int(rng.expovariate(1 / 8)), 60)) % len(documents)]
    if kind == "loop":
        return documents[number % 100]
    if kind == "uniform":
        return chats.pop(rng.randrange(len(chats))) if len(chats) > 60 else []
    goes_on = rng.random() < 0.75 and (kind == "recent" or number // 700 % 2 == 0)
    return chats.pop(-1 - min(int(rng.expovariate(1 / 15)), len(chats) - 1)) if goes_on and chats else []


def _leading(blocks: Sequence[Block], held: object) -> int:
    """How many of the first blocks are held without a gap."""
    return next((at for at, block in enumerate(blocks) if block.name not in held), len(blocks))  # type: ignore[operator]


class Policy:
    """The policy of the store."""

    def __init__(self, limit_tokens: int) -> None:
        self.policy = TierPolicy(limit_tokens)
        self.held: set[bytes] = set()

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block in prompt.blocks[:hits]:
            self.policy.used(block.name, prompt.arrival_s)
        for block in prompt.blocks[hits:]:
            self._put(block, prompt.arrival_s)
        return hits

    def _put(self, block: Block, now_s: float) -> None:
        if block.name in self.held:
            self.policy.used(block.name, now_s)
        elif self.policy.wants(block.name, block.parent, BLOCK_TOKENS, block.recompute_s, now_s):
            missing = self.policy.used_bytes + BLOCK_TOKENS - self.policy.limit_bytes
            for name in self.policy.victims(missing, lambda name: False):
                self.policy.remove(name)
                self.held.remove(name)
            self.policy.add(block.name, block.parent, BLOCK_TOKENS, block.recompute_s, now_s)
            self.held.add(block.name)


class Recent:
    """Least recently used, block by block."""

    def __init__(self, limit_tokens: int, *, is_tail_first: bool) -> None:
        self.limit = limit_tokens // BLOCK_TOKENS
        self.step = -1 if is_tail_first else 1
        self.held: OrderedDict[bytes, None] = OrderedDict()

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block in prompt.blocks[:: self.step]:
            self.held[block.name] = None
            self.held.move_to_end(block.name)
        while len(self.held) > self.limit:
            self.held.popitem(last=False)
        return hits


class Greedy:
    """GreedyDual-Size-Frequency (Cherkasova 1998) over leaves: clock + uses x seconds / bytes."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit = limit_tokens // BLOCK_TOKENS
        self.clock = 0.0
        self.held: dict[bytes, tuple[float, int, Block]] = {}  # priority, uses
        self.children: dict[bytes, int] = {}
        self.leaves: list[tuple[float, int, bytes]] = []  # void where the priority is not the block's

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block in prompt.blocks:
            if block.name not in self.held:
                self.children[block.parent] = self.children.get(block.parent, 0) + 1
            uses = self.held[block.name][1] + 1 if block.name in self.held else 1
            self.held[block.name] = (self.clock + uses * block.recompute_s, uses, block)
            self._push(block.name)
        while len(self.held) > self.limit:
            self._drop()
        return hits

    def _push(self, name: bytes) -> None:
        if name in self.held and not self.children.get(name):
            priority, _, block = self.held[name]
            heappush(self.leaves, (priority, -block.depth, name))

    def _drop(self) -> None:
        priority, _, name = heappop(self.leaves)
        if name in self.held and self.held[name][0] == priority and not self.children.get(name):
            block = self.held.pop(name)[2]
            self.clock = max(self.clock, priority)
            self.children[block.parent] -= 1
            self._push(block.parent)


class Optimum:
    """Drops what is used again last; of those that never are, the deepest first."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit = limit_tokens // BLOCK_TOKENS
        self.held: dict[bytes, int] = {}  # next use
        self.order: list[tuple[int, int, bytes]] = []

    def serve(self, prompt: Prompt) -> int:
        hits = _leading(prompt.blocks, self.held)
        for block, next_use in zip(prompt.blocks, prompt.next_uses, strict=True):
            self.held[block.name] = next_use
            heappush(self.order, (-next_use, -block.depth, block.name))
        while len(self.held) > self.limit:
            next_use, _, name = heappop(self.order)
            if self.held.get(name) == -next_use:
                del self.held[name]
        return hits


def tiers(limit_tokens: int) -> Iterator[tuple[str, Tier]]:
    """What is compared, by name."""
    yield "policy", Policy(limit_tokens)
    yield "by size", Greedy(limit_tokens)
    yield "plain LRU", Recent(limit_tokens, is_tail_first=False)
    yield "ideal LRU", Recent(limit_tokens, is_tail_first=True)
    yield "optimum", Optimum(limit_tokens)


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
