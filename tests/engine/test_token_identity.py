"""Greedy output in float32 equals `transformers` token for token, on every path that a token can take."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tokenworks.contract.request import Sampling

NAMES = [
    "llama3",
    "llama-biases-linear-rope",
    "qwen2",
    "qwen2-sliding",
    "qwen3-tied",
    "qwen3-yarn",
    "mistral-sliding",
    "qwen3-moe",
    "qwen3-moe-unnormed-biases",
    "qwen3-moe-some-layers-sliding",
    "mixtral",
    "mixtral-sliding",
]
NEW_TOKENS = 24
GREEDY = Sampling(max_tokens=NEW_TOKENS, temperature=0)
Run = Callable[..., dict[str, Any]]


def prompts_across_borders() -> dict[str, list[int]]:
    """Lengths around block borders (8 tokens) and step budgets, some with a prefix in common."""
    rng = random.Random(7)
    common = [rng.randrange(512) for _ in range(40)]
    prompts = {}
    for length in (1, 7, 8, 9, 15, 16, 17, 63, 64, 65):
        prompts[f"alone-{length}"] = [rng.randrange(512) for _ in range(length)]
    for shared, own in ((8, 1), (16, 8), (40, 3), (40, 30)):
        prompts[f"shared-{shared}-{own}"] = common[:shared] + [rng.randrange(512) for _ in range(own)]
    return prompts


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, references: Any) -> tuple[Any, dict[str, list[int]]]:
    """A reference model and what it answers to each prompt."""
    reference = references(request.param)
    prompts = prompts_across_borders()
    return reference, {name: reference.greedy(prompt, NEW_TOKENS) for name, prompt in prompts.items()}


def check(engine: Any, expected: dict[str, list[int]], run: Run, tokens_of: Any) -> dict[str, Any]:
    prompts = prompts_across_borders()
    outputs = run(engine, {name: (prompts[name], GREEDY) for name in expected})
    for name, answer in expected.items():
        assert tokens_of(outputs[name]) == answer, name
    return outputs


def test_batched_and_whole(case: Any, run_requests: Run, tokens_of: Any) -> None:
    reference, expected = case
    check(reference.engine(max_step_tokens=512), expected, run_requests, tokens_of)


def test_alone_and_then_again_with_prefix_hits(case: Any, run_requests: Run, tokens_of: Any) -> None:
    reference, expected = case
    engine = reference.engine()
    for name in expected:
        check(engine, {name: expected[name]}, run_requests, tokens_of)
    again = {name: expected[name] for name in ("alone-65", "shared-40-30")}
    outputs = check(engine, again, run_requests, tokens_of)
    assert [outputs[name][0].cached_tokens for name in again] == [64, 64]


def test_chunked_prefill(case: Any, run_requests: Run, tokens_of: Any) -> None:
    reference, expected = case
    check(reference.engine(max_step_tokens=16), expected, run_requests, tokens_of)


def test_after_preemption(case: Any, run_requests: Run, tokens_of: Any) -> None:
    reference, expected = case
    engine = reference.engine(num_blocks=18, max_step_tokens=40)
    outputs = check(engine, expected, run_requests, tokens_of)
    assert engine.load.preemptions > 0
    assert sum(output[-1].end.preemptions for output in outputs.values()) == engine.load.preemptions
    assert engine.load.free_blocks == engine.load.total_blocks


@pytest.mark.parametrize("name", ["qwen3-tied", "mistral-sliding", "qwen3-moe"])
def test_output_does_not_depend_on_who_else_is_in_the_batch(
    name: str, references: Any, run_requests: Run, tokens_of: Any
) -> None:
    reference = references(name)
    prompt = prompts_across_borders()["alone-17"]
    sampling = Sampling(max_tokens=NEW_TOKENS, temperature=0.8, top_p=0.9, seed=11, repetition_penalty=1.2)
    alone = tokens_of(run_requests(reference.engine(), {"me": (prompt, sampling)})["me"])
    rng = random.Random(3)
    for size in (1, 5, 11):
        others = {
            f"other-{i}": (
                [rng.randrange(512) for _ in range(rng.randrange(1, 90))],
                Sampling(max_tokens=rng.randrange(1, 40), temperature=1.3, seed=i),
            )
            for i in range(size)
        }
        outputs = run_requests(reference.engine(num_blocks=40), {**others, "me": (prompt, sampling)})
        assert tokens_of(outputs["me"]) == alone


def test_equal_prompts_that_arrive_together_are_computed_once(references: Any, run_requests: Run) -> None:
    prompt = prompts_across_borders()["alone-65"]
    outputs = run_requests(references("qwen3-tied").engine(max_step_tokens=512), {k: (prompt, GREEDY) for k in "abc"})
    assert [outputs[name][0].cached_tokens for name in "abc"] == [0, 64, 64]
    assert len({tuple(t for o in outputs[name] for t in o.token_ids) for name in "abc"}) == 1


def test_a_step_that_fails_ends_its_sequences_and_spares_the_rest(
    references: Any, run_requests: Run, tokens_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = references("qwen2")
    engine = reference.engine()
    prompt = prompts_across_borders()["alone-65"]
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "head", None)
        outputs = run_requests(engine, {"broken": (prompt, GREEDY)})
    assert outputs["broken"][0].end.error.startswith("TypeError")
    assert engine.load.free_blocks == engine.load.total_blocks
    outputs = run_requests(engine, {"fine": (prompt, GREEDY)})
    assert outputs["fine"][0].cached_tokens == 0  # the failed step's blocks are not trusted
    assert tokens_of(outputs["fine"]) == reference.greedy(prompt, NEW_TOKENS)
