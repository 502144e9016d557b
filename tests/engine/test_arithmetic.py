"""FLOPs and bytes of steps, against counting one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.arithmetic import Arithmetic, pairs_in_window, row_parameters
from tokenworks.engine.model_config import read_model_config
from tokenworks.policy.accounts import Computed
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Chunk


def chunk(start: int, rows: int, num_sampled: int) -> Chunk:
    sequence = Sequence(Request("r", "model", list(range(start + rows)), Sampling(max_tokens=9)), 8, "f")
    return Chunk(sequence, start, rows, num_sampled)


@pytest.mark.parametrize("seed", range(50))
def test_keys_in_a_window_are_those_that_can_be_counted(seed: int) -> None:
    rng = random.Random(seed)
    start, rows, window = rng.randrange(60), rng.randrange(40), rng.choice((None, 1, rng.randrange(1, 50)))
    seen = [min(position + 1, window or 10**9) for position in range(start, start + rows)]
    assert pairs_in_window(start, rows, window) == sum(seen)


@pytest.mark.parametrize("name", ["llama3", "qwen2-sliding", "qwen3-tied", "qwen3-moe-some-layers-sliding", "mixtral"])
def test_parameters_are_those_of_the_products_that_one_token_passes_through(name: str, references: Any) -> None:
    """Counted by multiplying: each linear layer of the oracle adds up what one token takes of it."""
    reference = references(name)
    config = read_model_config(reference.directory)
    seen = 0
    for title, parameter in reference.model.named_parameters():
        if parameter.ndim < 2 or "embed" in title or "lm_head" in title:
            continue
        is_expert = ".experts." in title
        share = config.experts.num_per_token / config.experts.num_experts if is_expert and config.experts else 1
        seen += round(parameter.numel() * share)
    assert row_parameters(config) == seen


@pytest.mark.parametrize("name", ["llama3", "qwen2-sliding", "mistral-sliding"])
def test_a_run_is_the_sum_of_its_steps(name: str, references: Any) -> None:
    engine = references(name).engine()
    arithmetic = Arithmetic(engine.model.config, engine.spec, engine.model.step_bytes)
    starts = (3, 14, 40)
    run = arithmetic.count(Computed(tuple(chunk(start, 1, 1) for start in starts), 9))
    steps = [arithmetic.count(Computed(tuple(chunk(start + k, 1, 1) for start in starts), 1)) for k in range(9)]
    assert run == (sum(flops for flops, _ in steps), pytest.approx(sum(num_bytes for _, num_bytes in steps)))


def test_a_prompt_reads_its_context_once_and_samples_once(references: Any) -> None:
    engine = references("qwen2-sliding").engine()  # of three layers two slide, over 16 tokens
    flops, num_bytes = Arithmetic(engine.model.config, engine.spec, engine.model.step_bytes).count(
        Computed((chunk(20, 10, 1),), 1)
    )
    hidden, inner, heads, kv_heads, head_dim, vocab = 64, 128, 4, 2, 16, 512
    weights = 3 * (hidden * 2 * (heads + kv_heads) * head_dim + 3 * hidden * inner)
    pairs = sum(range(21, 31)) + 2 * 10 * 16
    assert flops == 2 * (10 * weights + hidden * vocab) + 4 * heads * head_dim * pairs
    token_bytes = 2 * kv_heads * head_dim * torch.float32.itemsize
    assert num_bytes == engine.model.step_bytes(10) + token_bytes * (30 + 2 * 25)
