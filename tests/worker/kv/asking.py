"""Prompts, and what a test asks of members: one publishes, another answers, and what the store says is meddled with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tokenworks.contract.request import Sampling
from tokenworks.kv.client import StoreEvent
from tokenworks.kv.protocol import Ready

if TYPE_CHECKING:
    from tests.worker.kv.conftest import Member

    Join = Callable[..., Member]

NEW_TOKENS = 12
GREEDY = Sampling(max_tokens=NEW_TOKENS, temperature=0)
PREFILL = Sampling(max_tokens=1, temperature=0)
BLOCK = 8  # tokens


def tokens(count: int, seed: int = 7) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(512) for _ in range(count)]


PROMPT = tokens(67)  # eight blocks and three tokens


def publish(member: Member, prompt: list[int], name: str = "prefill") -> None:
    member.run(name, prompt[: len(prompt) // BLOCK * BLOCK], PREFILL, publishes=True)


def answer(member: Member, name: str = "request") -> list[int]:
    return [token for output in member.outputs[name] for token in output.token_ids]


def blocks_read(member: Member) -> int:
    return member.outputs["request"][0].cached_tokens // BLOCK


def meddle(reader: Member, alter: Callable[[StoreEvent], list[StoreEvent]]) -> None:
    reader.client.alter = alter


def hold_back(reader: Member, num_let_through: int) -> list[Ready]:
    """Blocks from that one on do not come; what was held back can be given later."""
    held: list[Ready] = []

    def hold(event: StoreEvent) -> list[StoreEvent]:
        if not isinstance(event, Ready):
            return [event]
        held.append(Ready(event.request, event.places[num_let_through:]))
        return [Ready(event.request, event.places[:num_let_through])]

    meddle(reader, hold)
    return held
