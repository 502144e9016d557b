"""A request as the whole system knows it: frozen, tokenised, with every default already filled in.

The gateway builds it once from what the client sent; the router, the engine and the ledger only read it. It knows
nothing of HTTP or of text: stop strings and templates are the gateway's, token ids are everyone's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Scenario(StrEnum):
    """A class of traffic with its own objectives."""

    ONLINE = "online"  # a person waits: tail latency
    OFFLINE = "offline"  # throughput and unit cost
    REALTIME = "realtime"  # steadiness: jitter


AUTO_TIER: Final = "auto"
"""The `service_tier` that leaves the choice to the API key, as leaving it out does."""

SERVICE_TIERS: Final = {
    AUTO_TIER: Scenario.ONLINE,
    "default": Scenario.ONLINE,
    "flex": Scenario.OFFLINE,
    "priority": Scenario.REALTIME,
}
"""OpenAI's `service_tier` values and the scenario each one chooses, where the key chooses none."""


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the next token is chosen and when to stop. The gateway has checked the ranges; the engine trusts them."""

    max_tokens: int  # at most this many output tokens
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # 1 is off
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # 0 is off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # 1 is off
    seed: int = 0  # always set: the gateway draws one where the client gave none
    stop_token_ids: tuple[int, ...] = ()  # end-of-sequence ids included, unless the client asked to ignore them
    num_logprobs: int | None = None  # None: none; 0: of the chosen token; n: and of the n likeliest


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asked."""

    id: str
    model: str
    token_ids: list[int]  # the prompt, and what was generated behind it where another worker goes on
    sampling: Sampling
    scenario: Scenario = Scenario.ONLINE
    tenant: str = "anonymous"
    salt: str = ""  # separates the KV names of tenants that must not share blocks
    num_generated: int = 0  # of token_ids, the last ones that were output already: this goes on from there

    @property
    def num_prompt(self) -> int:
        """Tokens that the client gave; `max_tokens`, penalties and sampling count from there."""
        return len(self.token_ids) - self.num_generated
