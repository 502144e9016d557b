"""The answer format of `/v1/completions`."""

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


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Parallel lists, one entry a token. `text_offset` counts characters of the output text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True):
    """One entry of `choices`."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    service_tier: str | None
    choices: list[CompletionChoice]
    usage: Usage


class CompletionFormat:
    """Bytes for one completion request."""

    def __init__(self, head: AnswerHead, *, has_usage_field: bool, has_token_ids: bool = False) -> None:
        self._head = head
        self._has_token_ids = has_token_ids
        self._template = EventTemplate(head, "text_completion", has_usage_field=has_usage_field)

    def opening(self, index: int) -> bytes:
        """Completions have no opening event."""
        return b""

    def event(self, piece: Piece, usage: Usage | None) -> bytes:
        """The event for one piece."""
        logprobs = b"null" if piece.positions is None else encode_json(completion_logprobs(piece.positions))
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b%b}' % (
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
            Completion(
                id=head.id,
                created=head.created,
                model=head.model,
                service_tier=head.service_tier,
                choices=[_choice(choice, has_token_ids=self._has_token_ids) for choice in choices],
                usage=usage,
            )
        )


def _choice(choice: FinishedChoice, *, has_token_ids: bool) -> CompletionChoice:
    logprobs = None if choice.positions is None else completion_logprobs(choice.positions)
    token_ids = choice.token_ids if has_token_ids else msgspec.UNSET
    return CompletionChoice(choice.index, choice.text, logprobs, choice.finish_reason, token_ids)


def completion_logprobs(positions: Sequence[Position]) -> CompletionLogprobs:
    """Log probabilities in the shape of completions: the chosen token is always among `top_logprobs`."""
    return CompletionLogprobs(
        tokens=[_text(position.token) for position in positions],
        token_logprobs=[position.logprob for position in positions],
        top_logprobs=[
            {_text(token): logprob for token, logprob in [*position.top, (position.token, position.logprob)]}
            for position in positions
        ],
        text_offset=[position.text_offset for position in positions],
    )


def _text(token: bytes) -> str:
    """The token's text; a piece of a character is spelt out as OpenAI does, so that two of them never share a key."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
