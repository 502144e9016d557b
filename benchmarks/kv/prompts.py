"""Prompts as a tier sees them: block by block, with what each costs to compute, from a trace or made up.

Mooncake's format tells which blocks of its prompts were the same, 512 tokens a block; only full blocks are kept, as in
the store. A block takes one byte a token. Costs are those of a card, in the proportion of a 0.6 B model.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tokenworks.plan.traces import MOONCAKE_BLOCK_TOKENS as BLOCK_TOKENS
from tokenworks.plan.traces import read_trace

__all__ = ["BLOCK_TOKENS", "ROOT", "SYNTHETIC", "Block", "Prompt", "read_prompts", "synthetic_prompts"]

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
