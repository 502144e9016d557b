"""Greedy output of OpenVINO in float32 equals `transformers` token for token, on every path that a token can take."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tokenworks.contract.request import Sampling

NEW_TOKENS = 24
GREEDY = Sampling(max_tokens=NEW_TOKENS, temperature=0)
Run = Callable[..., dict[str, Any]]


def prompts_across_borders() -> dict[str, list[int]]:
    """Lengths around page borders (32 tokens) and step budgets, some with a prefix in common."""
    rng = random.Random(7)
    common = [rng.randrange(512) for _ in range(70)]
    prompts = {}
    for length in (1, 31, 32, 33, 63, 64, 65, 130):
        prompts[f"alone-{length}"] = [rng.randrange(512) for _ in range(length)]
    for shared, own in ((32, 1), (64, 8), (70, 40)):
        prompts[f"shared-{shared}-{own}"] = common[:shared] + [rng.randrange(512) for _ in range(own)]
    return prompts


PROMPTS = prompts_across_borders()


@pytest.fixture(scope="module")
def expected(dense: Any) -> dict[str, list[int]]:
    """What `transformers` answers to each prompt."""
    return {name: dense.greedy(prompt, NEW_TOKENS) for name, prompt in PROMPTS.items()}


def check(engine: Any, expected: dict[str, list[int]], run: Run, tokens_of: Any) -> dict[str, Any]:
    outputs = run(engine, {name: (PROMPTS[name], GREEDY) for name in expected})
    for name, answer in expected.items():
        assert tokens_of(outputs[name]) == answer, name
    return outputs


def test_batched_then_again_with_prefix_hits(
    dense: Any, expected: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any
) -> None:
    engine = openvino_engine(dense, max_step_tokens=512)
    check(engine, expected, run_requests, tokens_of)
    again = {name: expected[name] for name in ("alone-65", "alone-130")}
    outputs = check(engine, again, run_requests, tokens_of)
    assert [outputs[name][0].cached_tokens for name in again] == [64, 128]


def test_chunked_prefill(dense: Any, expected: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any) -> None:
    check(openvino_engine(dense, max_step_tokens=24), expected, run_requests, tokens_of)


def test_blocks_of_two_pages(
    dense: Any, expected: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any
) -> None:
    engine = openvino_engine(dense, num_blocks=20, max_step_tokens=40, block_tokens=64)
    check(engine, expected, run_requests, tokens_of)


def test_after_preemption(references: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any) -> None:
    reference = references("qwen3-tied")
    engine = openvino_engine(reference, num_blocks=8)
    prompts = {str(n): [n + k for k in range(20)] for n in range(6)}
    sampling = Sampling(max_tokens=80, temperature=0)
    outputs = run_requests(engine, {name: (prompt, sampling) for name, prompt in prompts.items()})
    assert engine.load.preemptions > 0
    for name, prompt in prompts.items():
        assert tokens_of(outputs[name]) == reference.greedy(prompt, 80)
    assert engine.load.free_blocks == engine.load.total_blocks


def test_drafts_change_no_token(references: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any) -> None:
    reference = references("qwen3-tied")
    prompt = PROMPTS["alone-31"] * 3
    engine = openvino_engine(reference, speculation="auto")
    engine._clock_ns = itertools.count().__next__  # every step takes as long, so that guessing ahead pays
    sampling = Sampling(max_tokens=100, temperature=0)
    found = tokens_of(run_requests(engine, {"r": (prompt, sampling)})["r"])
    assert found == reference.greedy(prompt, 100)
    assert engine.load.draft_tokens > 0


def test_what_lies_in_unused_slots_is_never_read(
    references: Any, openvino_engine: Any, run_requests: Run, tokens_of: Any
) -> None:
    reference = references("qwen2")
    engine = openvino_engine(reference)
    engine._cache.data.fill_(torch.nan)
    outputs = run_requests(engine, {name: (PROMPTS[name], GREEDY) for name in ("alone-33", "alone-130")})
    for name, found in outputs.items():
        assert tokens_of(found) == reference.greedy(PROMPTS[name], NEW_TOKENS)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_checkpoints_in_half_precision_are_computed_exactly(
    stored: torch.dtype,
    references: Any,
    make_reference: Any,
    openvino_engine: Any,
    run_requests: Run,
    tokens_of: Any,
    tmp_path: Path,
) -> None:
    copy.deepcopy(references("qwen2").model).to(stored).save_pretrained(tmp_path)
    reference = make_reference(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval())
    outputs = run_requests(openvino_engine(reference), {"r": (PROMPTS["alone-65"], GREEDY)})
    assert tokens_of(outputs["r"]) == reference.greedy(PROMPTS["alone-65"], NEW_TOKENS)
