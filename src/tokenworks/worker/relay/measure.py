"""Measures a foreign server's card: a few seconds of real requests, timed from outside.

What is measured is what a client would see, the network included: the time to the first token stands for the prefill
step, the mean time between tokens for the decode step. Points are taken from cheap to dear and stop when the time is
up. The prompts are random, so that the server's prefix cache cannot answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from tokenworks.contract.card import Card, DecodePoint, PrefillPoint
from tokenworks.contract.config import EngineSettings
from tokenworks.contract.request import Request, Sampling
from tokenworks.text.tokenizer import Tokenizer
from tokenworks.worker.fit import fitted_card
from tokenworks.worker.relay.answer import AnswerReader
from tokenworks.worker.relay.dialect import Dialect, completion_body
from tokenworks.worker.relay.learn import Learnt
from tokenworks.worker.relay.prompt import upstream_prompt
from tokenworks.worker.relay.upstream import Upstream, UpstreamFault

BUDGET_S: Final = 5.0
OUTPUT_TOKENS: Final = 8
MOST_IDS: Final = 20_000  # of the vocabulary are looked at
POINTS: Final = ((1, 16), (1, 256), (4, 16), (1, 1024))  # requests at once, prompt tokens of each


class Timing(msgspec.Struct, frozen=True):
    """One request, timed."""

    ttft_s: float
    itl_s: float | None  # mean; None where there was one token


class Measurement:
    """Sends made-up prompts and keeps the times."""

    def __init__(self, upstream: Upstream, dialect: Dialect, tokenizer: Tokenizer) -> None:
        self.prefill_points: list[PrefillPoint] = []
        self.decode_points: list[DecodePoint] = []
        self._upstream = upstream
        self._dialect = dialect
        self._tokenizer = tokenizer
        self._random = random.Random()  # not seeded: what was sent at an earlier start may still be cached
        self._ordinary = ordinary_ids(tokenizer)

    async def run(self, window: int) -> None:
        """Take points until they are all taken or the time is up; raises UpstreamError."""
        await self._time_one(16)  # the first request of a server's life pays for what the others find ready
        deadline = time.monotonic() + BUDGET_S
        for batch, prompt_tokens in POINTS:
            if prompt_tokens + OUTPUT_TOKENS <= window and time.monotonic() < deadline:
                await self._take(batch, prompt_tokens)
        if not self.decode_points:
            raise UpstreamFault(f"{self._upstream.url} answers one token at most, so its speed cannot be measured")

    async def _take(self, batch: int, prompt_tokens: int) -> None:
        timings = await asyncio.gather(*(self._time_one(prompt_tokens) for _ in range(batch)))
        if batch == 1:
            self.prefill_points.append(PrefillPoint(prompt_tokens, 0, timings[0].ttft_s))
        gaps = [timing.itl_s for timing in timings if timing.itl_s is not None]
        if gaps:
            self.decode_points.append(DecodePoint(batch, prompt_tokens, sum(gaps) / len(gaps)))

    async def _time_one(self, prompt_tokens: int) -> Timing:
        request = self._request(prompt_tokens)
        body = completion_body(request, upstream_prompt(request, self._dialect, self._tokenizer), self._dialect)
        reader = AnswerReader(request.id)
        seen: list[tuple[float, int]] = []  # instant, tokens
        started = time.monotonic()
        async with aclosing(self._upstream.stream(body)) as chunks:
            async for chunk in chunks:
                num_tokens = sum(len(output.token_ids) + output.text_tokens for output in reader.feed(chunk))
                if num_tokens:
                    seen.append((time.monotonic(), num_tokens))
        if not seen:
            raise UpstreamFault(f"{self._upstream.url} ended an answer without a token")
        return timing(started, seen)

    def _request(self, prompt_tokens: int) -> Request:
        can_go_on = "ignore_eos" in self._dialect.honours
        stops = () if can_go_on else self._dialect.eos_token_ids
        sampling = Sampling(max_tokens=OUTPUT_TOKENS, temperature=0.0, stop_token_ids=stops)
        return Request("card", "", self._random.choices(self._ordinary, k=prompt_tokens), sampling)


def timing(started_s: float, seen: Sequence[tuple[float, int]]) -> Timing:
    """From the instants at which tokens came, and how many each time. Where all came at once they share the time."""
    first_s, num_first = seen[0]
    later = sum(num_tokens for _, num_tokens in seen[1:])
    if later:
        return Timing(first_s - started_s, (seen[-1][0] - first_s) / later)
    return Timing(first_s - started_s, (first_s - started_s) / num_first if num_first > 1 else None)


def ordinary_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that make a prompt for any server, also one that takes text only: plain ASCII."""
    shown = (i for i in range(min(tokenizer.vocab_size, MOST_IDS)) if i not in tokenizer.special_ids)
    return [token_id for token_id in shown if (text := tokenizer.token_bytes[token_id]) and text.isascii()]


async def measure_card(
    upstream: Upstream, learnt: Learnt, tokenizer: Tokenizer, window: int, settings: EngineSettings
) -> Card:
    """The server's card; what it does not tell is 0 or "unknown". Raises UpstreamError."""
    measurement = Measurement(upstream, learnt.dialect, tokenizer)
    await measurement.run(window)
    return fitted_card(
        measurement.prefill_points,
        measurement.decode_points,
        settings,
        device=f"{learnt.maker} at {upstream.url}",
        threads=0,
        dtype="unknown",
        weights="unknown",
        weight_bytes=0,
        active_weight_bytes=0,
        kv_dtype="unknown",
        kv_bytes_per_token=0,
        kv_capacity_tokens=0,
    )
