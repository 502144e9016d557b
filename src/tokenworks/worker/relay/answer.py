"""One streamed answer of a foreign server: bytes in, sequence outputs out.

Pure. Token ids are used where they come, text where not. How many tokens a text stands for is what the server says in
its usage, which common ones send with every event; until it says anything an event counts as one token, and the last
output sets the count right.

The end is told once, with the last output, after everything that the server still had to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

from tokenworks.contract.wire import End, EndReason, SequenceOutput, TokenLogprobs
from tokenworks.worker.relay.upstream import UpstreamFault, decode_answer, error_message

MAX_EVENT_BYTES: Final = 16 << 20  # an event that never ends must not fill the memory
ID_PREFIX: Final = "token_id:"
_ENDS: Final = {"stop": EndReason.STOP, "length": EndReason.LENGTH}


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Logprobs(msgspec.Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class AnswerReader:
    """Reads the answer to one request."""

    def __init__(self, request_id: str, stop_token_ids: Collection[int] = (), num_logprobs: int | None = None) -> None:
        self.is_over = False  # the end has been told: nothing that comes is of interest
        self._request_id = request_id
        self._stop_token_ids = frozenset(stop_token_ids)
        self._num_logprobs = num_logprobs
        self._rest = b""
        self._last: SequenceOutput | None = None  # has the end; waits for the usage
        self._num_tokens = 0
        self._counted: int | None = None  # by the server
        self._cached: int | None = None

    def feed(self, chunk: bytes) -> Iterator[SequenceOutput]:
        """What became certain with these bytes, to be taken to its end; raises UpstreamFault behind what was good."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamFault(f"an event of the answer is larger than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            if line.startswith(b"data:") and not self.is_over:
                yield from self._on_data(line[5:].strip())

    def close(self) -> list[SequenceOutput]:
        """The rest, when the server has closed the stream; raises UpstreamFault where it closed too early."""
        if self.is_over:
            return []
        if self._last is None:
            raise UpstreamFault("the server cut the answer short: the stream ended before it was finished")
        return self._tell_end()

    def _on_data(self, data: bytes) -> list[SequenceOutput]:
        if data == b"[DONE]":
            return self.close()
        event = decode_answer(data, _Event)
        if event.error is not None:
            raise UpstreamFault(f"the server failed while answering: {error_message(data)[0]}")
        self._note_usage(event.usage)
        outputs = [output for choice in event.choices or () for output in self._on_choice(choice)]
        has_all = self._last is not None and event.usage is not None and not event.choices
        return outputs + self._tell_end() if has_all else outputs

    def _note_usage(self, usage: _Usage | None) -> None:
        if usage is not None:
            self._counted = usage.completion_tokens
            details = usage.prompt_tokens_details
            self._cached = self._cached if details is None else details.cached_tokens

    def _on_choice(self, choice: _Choice) -> list[SequenceOutput]:
        if self._last is not None:
            return []
        output = self._of_text(choice) if choice.token_ids is None else self._of_ids(choice, choice.token_ids)
        end = output.end or _end(choice.finish_reason, output.token_ids, self._stop_token_ids)
        if end is not None:
            self._last = msgspec.structs.replace(output, end=end)
            return self._tell_end() if output.end is not None else []  # we stopped, so no more will come
        has_news = output.token_ids or output.text is not None or output.cached_tokens is not None
        return [output] if has_news else []

    def _of_ids(self, choice: _Choice, token_ids: list[int]) -> SequenceOutput:
        stop = next((at for at, token_id in enumerate(token_ids) if token_id in self._stop_token_ids), None)
        kept = token_ids if stop is None else token_ids[: stop + 1]
        self._num_tokens += len(kept)
        return SequenceOutput(
            self._request_id,
            kept,
            logprobs=self._logprobs(choice.logprobs, len(kept)),
            cached_tokens=self._take_cached(),
            end=None if stop is None else End(EndReason.STOP, stop_token_id=kept[-1]),
        )

    def _of_text(self, choice: _Choice) -> SequenceOutput:
        has_token = choice.finish_reason is None or bool(choice.text)
        text_tokens = self._new_tokens(default=int(has_token))
        return SequenceOutput(
            self._request_id, text=choice.text or "", text_tokens=text_tokens, cached_tokens=self._take_cached()
        )

    def _new_tokens(self, default: int) -> int:
        """Tokens not told of yet: by the server's count, or `default` where it has said none."""
        new = default if self._counted is None else max(0, self._counted - self._num_tokens)
        self._num_tokens += new
        return new

    def _take_cached(self) -> int | None:
        cached, self._cached = self._cached, None
        return cached

    def _logprobs(self, found: _Logprobs | None, num_tokens: int) -> list[TokenLogprobs] | None:
        if self._num_logprobs is None:
            return None
        if found is None or len(found.token_logprobs) < num_tokens:
            raise UpstreamFault("the server left out log probabilities that were asked for")
        tops = found.top_logprobs or [None] * num_tokens
        pairs = zip(found.token_logprobs[:num_tokens], tops, strict=False)
        return [_token_logprobs(chosen, top or {}, self._num_logprobs) for chosen, top in pairs]

    def _tell_end(self) -> list[SequenceOutput]:
        assert self._last is not None
        self.is_over = True
        last = self._last
        if last.text is not None:
            last = msgspec.structs.replace(last, text_tokens=last.text_tokens + self._new_tokens(default=0))
        return [last if self._cached is None else msgspec.structs.replace(last, cached_tokens=self._cached)]


def _end(finish_reason: str | None, token_ids: list[int], stop_token_ids: Collection[int]) -> End | None:
    if finish_reason is None:
        return None
    if finish_reason not in _ENDS:
        raise UpstreamFault(f"the server ended the answer with `{finish_reason}`")
    reason = _ENDS[finish_reason]
    is_stop_token = reason is EndReason.STOP and bool(token_ids) and token_ids[-1] in stop_token_ids
    return End(reason, stop_token_id=token_ids[-1] if is_stop_token else None)


def _token_logprobs(chosen: float, top: Mapping[str, float], num: int) -> TokenLogprobs:
    """The `num` likeliest, in falling order; tokens are named `token_id:5`."""
    likeliest = sorted(top.items(), key=lambda item: -item[1])[:num]
    try:
        ids = [int(token.removeprefix(ID_PREFIX)) for token, _ in likeliest]
    except ValueError as error:
        raise UpstreamFault("the server names tokens by text where ids were asked for") from error
    return TokenLogprobs(chosen, ids, [logprob for _, logprob in likeliest])
