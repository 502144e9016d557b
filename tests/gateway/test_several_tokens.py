"""A step may give a sequence several tokens (speculation); what a client gets must not show it, but in its timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import tokenizers

from tokenworks.contract.request import Request
from tokenworks.contract.wire import SequenceOutput

MODEL = "tiny-echo"


def bundled(
    answer: Callable[[Request], Iterator[SequenceOutput]], size: int
) -> Callable[..., Iterator[SequenceOutput]]:
    """The same answer, `size` tokens an output."""

    def run(request: Request) -> Iterator[SequenceOutput]:
        single = answer(request)
        while outputs := list(islice(single, size)):
            yield SequenceOutput(
                request.id,
                [token for output in outputs for token in output.token_ids],
                None if outputs[0].logprobs is None else [each for output in outputs for each in output.logprobs or []],
                outputs[0].cached_tokens,
                outputs[-1].end,
            )

    return run


def answers_of(rig: Any, **options: Any) -> list[dict[str, Any]]:
    """What a client makes of the whole answer, and of the streamed one."""
    whole = rig.openai.completions.create(model=MODEL, **options)
    chunks = list(
        rig.openai.completions.create(model=MODEL, stream=True, stream_options={"include_usage": True}, **options)
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    streamed = {
        "text": "".join(choice.text for choice in choices),
        "finish_reason": choices[-1].finish_reason,
        "completion_tokens": chunks[-1].usage.completion_tokens,
        "cached_tokens": chunks[-1].usage.prompt_tokens_details.cached_tokens,
        "logprobs": [t for choice in choices if choice.logprobs for t in choice.logprobs.tokens],
        "text_offset": [t for choice in choices if choice.logprobs for t in choice.logprobs.text_offset],
    }
    choice = whole.choices[0]
    return [
        {
            "text": choice.text,
            "finish_reason": choice.finish_reason,
            "completion_tokens": whole.usage.completion_tokens,
            "cached_tokens": whole.usage.prompt_tokens_details.cached_tokens,
            "logprobs": choice.logprobs.tokens if choice.logprobs else [],
            "text_offset": choice.logprobs.text_offset if choice.logprobs else [],
        },
        streamed,
    ]


@pytest.mark.parametrize("size", [2, 3, 7, 50])
@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 5},
        {"max_tokens": 40, "stop": ["zzz", "n f"], "logprobs": 2},
        {"max_tokens": 40, "stop": "quick", "extra_body": {"include_stop_str_in_output": True}},
        {"max_tokens": 40, "stop": ["never said"]},
        {"max_tokens": 40, "logprobs": 1, "extra_body": {"stop_token_ids": [150]}},
    ],
    ids=["limit", "stop string", "shown stop string", "no stop", "stop token"],
)
def test_an_answer_does_not_depend_on_how_many_tokens_come_at_once(
    size: int, options: dict[str, Any], rig: Any, backend: tokenizers.Tokenizer
) -> None:
    ids = [*(token - 1 for token in backend.encode("the quick brown fox jumps").ids), 149]
    one_by_one = answers_of(rig, prompt=ids, **options)
    rig.worker.answer = bundled(rig.worker.answer, size)
    assert answers_of(rig, prompt=ids, **options) == one_by_one
