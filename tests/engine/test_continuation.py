"""Whoever goes on with a sequence outputs what the first worker would have: tokens and log probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tokenworks.contract.request import Request, Sampling

NEW_TOKENS = 20
PROMPT = [7, 130, 33, 501, 33, 7, 250, 64, 9, 12, 400]
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "num_logprobs": 3},
    "sampled": {"temperature": 1.1, "seed": 11, "top_p": 0.95},
    "penalised": {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    "penalised-sampled": {"temperature": 1.0, "seed": 4, "top_k": 50, "frequency_penalty": 0.7, "num_logprobs": 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("speculation", ["auto", "off"])
def test_a_continuation_samples_what_an_undisturbed_run_does(
    references: Callable[..., Any], run_requests: Any, tokens_of: Any, kind: str, speculation: str
) -> None:
    reference = references("qwen3-tied")
    sampling = Sampling(NEW_TOKENS, **KINDS[kind])
    outputs = run_requests(reference.engine(speculation=speculation), {"whole": (PROMPT, sampling)})["whole"]
    expected = tokens_of(outputs)
    logprobs = [each for output in outputs for each in output.logprobs or []]
    other = reference.engine(speculation=speculation)
    for seen in (1, 8, NEW_TOKENS - 1):
        other.add(Request(f"from-{seen}", "model", [*PROMPT, *expected[:seen]], sampling, num_generated=seen))
    found: dict[str, list[Any]] = {}
    while other.has_work:
        for output in other.step():
            found.setdefault(output.request_id, []).append(output)
    for seen in (1, 8, NEW_TOKENS - 1):
        continued = found[f"from-{seen}"]
        assert tokens_of(continued) == expected[seen:]
        rest = [each for output in continued for each in output.logprobs or []]
        assert [each.top_token_ids for each in rest] == [each.top_token_ids for each in logprobs[seen:]]
        assert [each.chosen for each in rest] == pytest.approx([each.chosen for each in logprobs[seen:]], abs=1e-4)
        assert continued[-1].end.reason == outputs[-1].end.reason
