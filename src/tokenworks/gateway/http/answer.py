"""What both answer formats share: usage, the finished choice, and the format's interface.

A format (`completion_format.py`, `chat_format.py`) turns pieces into the bytes of server-sent events and finished
choices into the bytes of a whole answer. Events are put together from parts encoded once per request, since there is
one for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from tokenworks.contract.kv import Tier
from tokenworks.contract.record import PICO, Costs, Work
from tokenworks.gateway.http.choice import Piece, Position

DONE_EVENT: Final = b"data: [DONE]\n\n"
encode_json: Final = msgspec.json.Encoder().encode


class PromptTokensDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where prompt tokens came from."""

    cached_tokens: int  # not computed, whatever tier they came from
    cached_tokens_by_tier: dict[Tier, int] | None = None  # where there is a store


class CostDetails(msgspec.Struct, frozen=True):
    """What a request's cost is made of, each in `currency`."""

    currency: str
    device: dict[Work, float]
    kv: dict[Tier, float]
    transfer: float
    energy: float
    saved: float  # what computing the cached tokens would have cost; no part of the sum


class Usage(msgspec.Struct, frozen=True):
    """OpenAI's `usage`, and the cost where it was asked for: a number, or null where a worker has yet to tell."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    cost: float | None | msgspec.UnsetType = msgspec.UNSET
    cost_details: CostDetails | None | msgspec.UnsetType = msgspec.UNSET


def cost_details(costs: Costs, currency: str) -> CostDetails:
    """Costs as a client reads them."""
    return CostDetails(
        currency,
        {work: amount / PICO for work, amount in costs.device.items()},
        {tier: amount / PICO for tier, amount in costs.kv.items()},
        costs.transfer / PICO,
        costs.energy / PICO,
        costs.saved / PICO,
    )


def token_ids_field(token_ids: Sequence[int], *, is_wanted: bool) -> bytes:
    """The member `token_ids` of a choice, vLLM's name for it, as the end of an object; nothing where nobody asked."""
    return b',"token_ids":%b' % encode_json(token_ids) if is_wanted else b""


class FinishedChoice:
    """The pieces of one choice, put together."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.positions: list[Position] | None = None
        self.token_ids: list[int] = []
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """All of the text."""
        return "".join(self._texts)

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self._texts.append(piece.text)
        self.token_ids += piece.token_ids
        self.finish_reason = piece.finish_reason
        if piece.positions is not None:
            self.positions = (self.positions or []) + piece.positions


class AnswerHead(msgspec.Struct, frozen=True):
    """What every answer and every event of one request says of it."""

    id: str
    created: int  # seconds since 1970
    model: str
    service_tier: str | None = None


class AnswerFormat(Protocol):
    """Bytes for what an endpoint answers."""

    def opening(self, index: int) -> bytes:
        """The event before a choice's first piece; empty where the format has none."""

    def event(self, piece: Piece, usage: Usage | None) -> bytes:
        """The event for one piece, with usage so far where wanted."""

    def usage_event(self, usage: Usage) -> bytes:
        """The event after all choices have ended."""

    def whole(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The answer in one."""


class EventTemplate:
    """The unchanging parts of one request's events."""

    def __init__(self, head: AnswerHead, object_name: str, *, has_usage_field: bool) -> None:
        opening = {"id": head.id, "object": object_name, "created": head.created, "model": head.model}
        if head.service_tier is not None:
            opening["service_tier"] = head.service_tier
        self._head = b"data: " + encode_json(opening)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if has_usage_field else b"]}\n\n"

    def event(self, choice: bytes, usage: Usage | None) -> bytes:
        """One event around an encoded choice (or none)."""
        if usage is None:
            return self._head + choice + self._tail
        return self._head + choice + b'],"usage":' + encode_json(usage) + b"}\n\n"


def finish(reason: str | None) -> bytes:
    """A finish reason in JSON."""
    return b"null" if reason is None else b'"' + reason.encode() + b'"'
