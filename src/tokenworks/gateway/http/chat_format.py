"""The answer format of `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tokenworks.gateway.http.answer import (
    AnswerHead,
    EventTemplate,
    FinishedChoice,
    Usage,
    encode_json,
    finish,
    token_ids_field,
)
from tokenworks.gateway.http.choice import Piece, Position


class ChatToken(msgspec.Struct, frozen=True):
    """A token and its log probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChatPosition(msgspec.Struct, frozen=True):
    """One output token and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatToken]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """`logprobs` of a choice."""

    content: list[ChatPosition]
    refusal: None = None


class ChatAnswerMessage(msgspec.Struct, frozen=True):
    """What the model said."""

    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One entry of `choices`."""

    index: int
    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    service_tier: str | None
    choices: list[ChatChoice]
    usage: Usage


class ChatFormat:
    """Bytes for one chat request."""

    def __init__(self, head: AnswerHead, *, has_usage_field: bool, has_token_ids: bool = False) -> None:
        self._head = head
        self._has_token_ids = has_token_ids
        self._template = EventTemplate(head, "chat.completion.chunk", has_usage_field=has_usage_field)

    def opening(self, index: int) -> bytes:
        """The event that says who speaks."""
        choice = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}' % index
        return self._template.event(choice, None)

    def event(self, piece: Piece, usage: Usage | None) -> bytes:
        """The event for one piece."""
        logprobs = b"null" if piece.positions is None else encode_json(chat_logprobs(piece.positions))
        choice = b'{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":%b%b}' % (
            piece.index,
            encode_json(piece.text),
            logprobs,
            finish(piece.finish_reason),
            token_ids_field(piece.token_ids, is_wanted=self._has_token_ids),
        )
        return self._template.event(choice, usage)

    def usage_event(self, usage: Usage) -> bytes:
        """The event after all choices have ended."""
        return self._template.event(b"", usage)

    def whole(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """The answer in one."""
        head = self._head
        return encode_json(
            ChatCompletion(
                id=head.id,
                created=head.created,
                model=head.model,
                service_tier=head.service_tier,
                choices=[_choice(choice, has_token_ids=self._has_token_ids) for choice in choices],
                usage=usage,
            )
        )


def _choice(choice: FinishedChoice, *, has_token_ids: bool) -> ChatChoice:
    logprobs = None if choice.positions is None else chat_logprobs(choice.positions)
    token_ids = choice.token_ids if has_token_ids else msgspec.UNSET
    return ChatChoice(choice.index, ChatAnswerMessage(choice.text), logprobs, choice.finish_reason, token_ids)


def chat_logprobs(positions: Sequence[Position]) -> ChatLogprobs:
    """Log probabilities in the shape of chat; `bytes` puts characters together that span tokens."""
    return ChatLogprobs([_position(position) for position in positions])


def _position(position: Position) -> ChatPosition:
    chosen = _token(position.token, position.logprob)
    top = [_token(token, logprob) for token, logprob in position.top]
    return ChatPosition(chosen.token, chosen.logprob, chosen.bytes, top)


def _token(token: bytes, logprob: float) -> ChatToken:
    return ChatToken(token.decode("utf-8", errors="replace"), logprob, list(token))
