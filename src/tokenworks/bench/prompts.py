"""Prompts without a tokenizer: token ids drawn from hashes, and the request bodies that carry them.

A prompt is a run of streams. Each trace block is a stream keyed by its id, so two requests that share leading block
ids share exactly that token prefix and nothing after it; the tokens past the last block (or all of them, without a
trace) come from a stream that is the request's own. Token j of a stream is output j of the SplitMix64 generator
(Steele, Lea and Flood, OOPSLA 2014) seeded with the stream's key, mapped into the allowed range of ids.

Where a server takes only text, each id picks a common English word: sharing is kept, the token count is approximate
and the report relies on what the server counted. Holds no state; the same arguments give the same bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tokenworks.bench.arrivals import LengthRange, PlannedRequest
from tokenworks.plan.traces import MOONCAKE_BLOCK_TOKENS

U64_MASK = (1 << 64) - 1
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
COMMON_ENGLISH = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were her all she there would their we him been has when who will more no if out so said what up its "
    "about into than them can only other new some could time these two may then do first any my now such like our "
    "over man me even most made after also did many before must through back years where much your way well down "
    "should because each just those people how too little state good very make world still own see men work long get "
    "here between both life being under never day same another know while last might us great old year off come since "
    "against go came right used take three small large place house water again head part point home hand high school "
    "number city early white young power order area light line table word name form group night door case story"
)
WORDS = tuple(COMMON_ENGLISH.split())

Endpoint = Literal["completions", "chat"]
PromptKind = Literal["ids", "text"]


class PromptStyle(msgspec.Struct, frozen=True):
    """How bodies are made; one value per run."""

    model: str
    endpoint: Endpoint = "completions"
    kind: PromptKind = "ids"  # chat always carries text
    token_ids: LengthRange = LengthRange(1000, 3999)  # above most special ids, below the end of small vocabularies
    block_tokens: float = MOONCAKE_BLOCK_TOKENS
    ignore_eos: bool = True  # forces the output length, so that runs compare
    temperature: float = 0.0
    extra_body: dict[str, Any] = {}
    seed: int = 0

    @property
    def sends_ids(self) -> bool:
        """Whether the server gets exactly as many input tokens as planned."""
        return self.endpoint == "completions" and self.kind == "ids"


def prompt_token_ids(planned: PlannedRequest, style: PromptStyle) -> list[int]:
    """The `planned.input_tokens` ids of this prompt. O(tokens), vectorised: it runs while other streams are timed."""
    own_key = splitmix64((style.seed << 32) ^ (planned.index * 2 + 1))
    keys = [splitmix64((style.seed << 32) ^ (block_id * 2)) for block_id in planned.block_ids] + [own_key]
    edges = np.rint(np.arange(len(keys)) * style.block_tokens).astype(np.int64)
    position = np.arange(planned.input_tokens)
    stream = np.searchsorted(edges, position, side="right") - 1
    offset = (position - edges[stream]).astype(np.uint64)
    random_u64 = _mix(np.array(keys, np.uint64)[stream] + (offset + np.uint64(1)) * np.uint64(GOLDEN_GAMMA))
    num_ids = style.token_ids.high - style.token_ids.low + 1
    ids: list[int] = (random_u64 % np.uint64(num_ids) + np.uint64(style.token_ids.low)).tolist()
    return ids


def splitmix64(seed: int) -> int:
    """First output of SplitMix64 from `seed`, any integer: spreads neighbouring ids over all 64 bits."""
    state = np.array([(seed + GOLDEN_GAMMA) & U64_MASK], np.uint64)
    return int(_mix(state)[0])


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def prompt_text(token_ids: list[int]) -> str:
    """One common word per id: near one token per word for English vocabularies."""
    return " ".join(WORDS[token_id % len(WORDS)] for token_id in token_ids)


def request_body(planned: PlannedRequest, style: PromptStyle) -> bytes:
    """The JSON body of a streaming request that asks for final usage."""
    return _encode_body(prompt_token_ids(planned, style), planned.output_tokens, style)


def probe_body(style: PromptStyle) -> bytes:
    """A one-token request with both ends of the range of ids: a server that takes it takes all of them."""
    return _encode_body([style.token_ids.low, style.token_ids.high] * 2, 1, style)


def _encode_body(token_ids: list[int], max_tokens: int, style: PromptStyle) -> bytes:
    body: dict[str, Any] = {
        "model": style.model,
        **_prompt_fields(token_ids, style),
        "max_tokens": max_tokens,
        "temperature": style.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if style.ignore_eos:
        body["ignore_eos"] = True
    return msgspec.json.encode(body | style.extra_body)


def _prompt_fields(token_ids: list[int], style: PromptStyle) -> dict[str, Any]:
    if style.endpoint == "chat":
        return {"messages": [{"role": "user", "content": prompt_text(token_ids)}]}
    return {"prompt": token_ids if style.sends_ids else prompt_text(token_ids)}
