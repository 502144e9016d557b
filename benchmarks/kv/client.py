"""One streamed completion of token ids, timed where a client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Answer:
    """What came back; times are seconds, from the send."""

    sent_s: float  # monotonic
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    itl_s: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)


async def complete(
    session: aiohttp.ClientSession, url: str, token_ids: Sequence[int], max_tokens: int, **extra: Any
) -> Answer:
    """Greedy, exactly `max_tokens` tokens; raises RuntimeError for anything but a whole answer."""
    body = {
        "prompt": list(token_ids),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    answer = Answer(time.monotonic())
    last_s = answer.sent_s
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:500]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now_s = time.monotonic()
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            if event.get("usage"):
                _take_usage(answer, event["usage"])
            ids = [token for choice in event["choices"] for token in choice.get("token_ids") or ()]
            if ids:
                if answer.token_ids:
                    answer.itl_s.append(now_s - last_s)
                else:
                    answer.ttft_s = now_s - answer.sent_s
                last_s = now_s
                answer.token_ids += ids
    answer.e2e_s = time.monotonic() - answer.sent_s
    if len(answer.token_ids) != max_tokens:
        raise RuntimeError(f"{len(answer.token_ids)} of {max_tokens} tokens came")
    return answer


def _take_usage(answer: Answer, usage: dict[str, Any]) -> None:
    details = usage.get("prompt_tokens_details") or {}
    answer.prompt_tokens = usage["prompt_tokens"]
    answer.cached_tokens = details.get("cached_tokens", 0)
    answer.by_tier = details.get("cached_tokens_by_tier") or {}
