"""One choice of an answer while it is being written: tokens (or a foreign server's text) in, text and log
probabilities out.

Puts detokeniser and stop strings in a row and decides how the choice ended, in OpenAI's words. Knows nothing of HTTP
and nothing of the other choices.

The last tokens of a sequence include the stop token, where one was sampled: it counts as an output token and is not
shown, unless the client asked to see what stopped the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from tokenworks.contract.errors import EngineFailed
from tokenworks.contract.kv import Tier
from tokenworks.contract.wire import End, EndReason, SequenceOutput, TokenLogprobs
from tokenworks.text.detokenizer import Detokenizer
from tokenworks.text.stop_strings import StopStrings
from tokenworks.text.token_bytes import TokenBytes

LOWEST_LOGPROB: Final = -9999.0  # stands for minus infinity, which JSON cannot say


class Position(msgspec.Struct, frozen=True):
    """Log probabilities at one output token."""

    token: bytes
    logprob: float
    top: list[tuple[bytes, float]]
    text_offset: int  # characters of output text before this token


class Piece(msgspec.Struct, frozen=True):
    """What one delivery added to a choice."""

    index: int
    text: str
    positions: list[Position] | None  # None: not asked for
    finish_reason: str | None
    token_ids: list[int] = []  # empty where a foreign server gave text only


class Choice:
    """The state of one choice."""

    def __init__(
        self,
        index: int,
        token_bytes: TokenBytes,
        detokenizer: Detokenizer,
        stops: Sequence[str] = (),
        *,
        shows_stop: bool = False,
    ) -> None:
        self.index = index
        self.num_tokens = 0
        self.cached_tokens = 0  # of the prompt, from whatever tier
        self.fetched_tokens: dict[Tier, int] = {}  # of those, the ones from beyond the device
        self.finish_reason: str | None = None
        self.last_token_ns = 0  # monotonic time of the latest tokens, for the gaps between them
        self.logprob_sum = 0.0  # of the chosen tokens, as many as were told
        self.num_logprobs = 0
        self._token_bytes = token_bytes
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops) if stops else None
        self._shows_stop = shows_stop
        self._num_chars = 0

    def take(self, output: SequenceOutput) -> Piece:
        """Go on with what a step gave; raises TokenworksError where the worker could not go on.

        A stop string may be complete before the step's last token: what comes behind it was never output.
        """
        if self._stops is None:
            return self._take(output)
        pieces = []
        for part in one_by_one(output):
            pieces.append(self._take(part))
            if self.finish_reason is not None:
                break
        return _joined(pieces)

    def _take(self, output: SequenceOutput) -> Piece:
        self.num_tokens += len(output.token_ids) + output.text_tokens
        self.cached_tokens = output.cached_tokens or self.cached_tokens
        self.fetched_tokens = output.fetched_tokens or self.fetched_tokens
        self._check_end(output.end)
        positions: list[Position] | None = None if output.logprobs is None else []
        text = self._decode(output, positions)
        text = self._until_stop(text, is_last=output.end is not None)
        if self.finish_reason is None and output.end is not None:
            self.finish_reason = output.end.reason.value
        return Piece(self.index, text, positions, self.finish_reason, output.token_ids)

    def _check_end(self, end: End | None) -> None:
        if end is None or end.reason in (EndReason.STOP, EndReason.LENGTH):
            return
        raise EngineFailed(end.error or f"the worker ended the request: {end.reason.value}")

    def _decode(self, output: SequenceOutput, positions: list[Position] | None) -> str:
        if output.text is not None:
            return output.text
        token_ids = output.token_ids
        hidden = self._num_hidden(output)
        if positions is None:
            text = self._detokenizer.push(token_ids[: len(token_ids) - hidden])
        else:
            text = self._decode_each(token_ids, output.logprobs or [], hidden, positions)
        return text + self._detokenizer.flush() if output.end is not None else text

    def _decode_each(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], hidden: int, positions: list[Position]
    ) -> str:
        text = ""
        for at, (token_id, found) in enumerate(zip(token_ids, logprobs, strict=True)):
            position = self._position(token_id, found, self._num_chars + len(text))
            positions.append(position)
            self.logprob_sum += position.logprob
            self.num_logprobs += 1
            if at < len(token_ids) - hidden:
                text += self._detokenizer.push([token_id])
        self._num_chars += len(text)
        return text

    def _position(self, token_id: int, found: TokenLogprobs, text_offset: int) -> Position:
        top = [
            (self._token_bytes[top_id], max(logprob, LOWEST_LOGPROB))
            for top_id, logprob in zip(found.top_token_ids, found.top_logprobs, strict=True)
        ]
        return Position(self._token_bytes[token_id], max(found.chosen, LOWEST_LOGPROB), top, text_offset)

    def _num_hidden(self, output: SequenceOutput) -> int:
        """1 where the last token is a stop token that must not be shown."""
        end = output.end
        is_stop = end is not None and end.stop_token_id is not None and output.token_ids[-1:] == [end.stop_token_id]
        return int(is_stop and not self._shows_stop)

    def _until_stop(self, text: str, *, is_last: bool) -> str:
        if self._stops is None:
            return text
        text, matched = self._stops.push(text)
        if matched is not None:
            self.finish_reason = "stop"
            return text + matched if self._shows_stop else text
        return text + self._stops.flush() if is_last else text


def one_by_one(output: SequenceOutput) -> list[SequenceOutput]:
    """The output as several steps of one token each would have given it."""
    last = len(output.token_ids) - 1
    if last < 1:
        return [output]
    return [
        SequenceOutput(
            output.request_id,
            [token_id],
            logprobs=None if output.logprobs is None else output.logprobs[at : at + 1],
            cached_tokens=output.cached_tokens if at == 0 else None,
            fetched_tokens=output.fetched_tokens if at == 0 else None,
            end=output.end if at == last else None,
        )
        for at, token_id in enumerate(output.token_ids)
    ]


def _joined(pieces: Sequence[Piece]) -> Piece:
    last = pieces[-1]
    if len(pieces) == 1:
        return last
    text = "".join(piece.text for piece in pieces)
    positions = None if last.positions is None else [each for piece in pieces for each in piece.positions or []]
    token_ids = [token_id for piece in pieces for token_id in piece.token_ids]
    return Piece(last.index, text, positions, last.finish_reason, token_ids)


def cached_by_tier(first: Sequence[Choice]) -> dict[Tier, int]:
    """The cached tokens of these choices, each the first of its prompt, by where they came from.

    What was fetched from nowhere was in the device's own memory.
    """
    found = {Tier.DEVICE: 0}
    for choice in first:
        found[Tier.DEVICE] += choice.cached_tokens
        for tier, tokens in choice.fetched_tokens.items():
            found[Tier.DEVICE] -= tokens
            found[tier] = found.get(tier, 0) + tokens
    return found


def mean_logprob(choices: Sequence[Choice]) -> float | None:
    """Of all output tokens; None where none was told a log probability, or one that is no number (damaged weights)."""
    count = sum([choice.num_logprobs for choice in choices])
    if not count:
        return None
    mean = sum([choice.logprob_sum for choice in choices]) / count
    return mean if math.isfinite(mean) else None
