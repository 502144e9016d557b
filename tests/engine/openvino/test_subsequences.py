"""A step cut into OpenVINO's subsequences, against a slow cut that walks over chunks one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.batch import build_batch
from tokenworks.engine.openvino.subsequences import Subsequences, cut
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Chunk, StepPlan

PAGE = 32


def random_plan(rng: random.Random, block_tokens: int) -> StepPlan:
    """Prompts' chunks, decode tokens and drafts in any order, each sequence in blocks of its own."""
    free = list(range(400))
    rng.shuffle(free)
    chunks = []
    for number in range(rng.randrange(1, 9)):
        start = rng.choice((0, 1, 31, 32, 33, rng.randrange(200)))
        drafts = tuple(range(rng.randrange(4))) if rng.random() < 0.4 else ()
        count = 1 + len(drafts) if drafts or rng.random() < 0.4 else rng.randrange(1, 80)
        known = [7] * (start + count - len(drafts))
        sequence = Sequence(Request(f"r{number}", "m", known, Sampling(max_tokens=9)), block_tokens, "f")
        sequence.block_table = [free.pop() for _ in range(-(-(start + count) // block_tokens) + rng.randrange(2))]
        chunks.append(Chunk(sequence, start, count, num_sampled=1 + len(drafts), drafts=drafts))
    return StepPlan(tuple(chunks))


def slow_cut(plan: StepPlan, block_tokens: int) -> list[tuple[int, int, list[int]]]:
    """(tokens before, tokens now, pages) of each chunk: those that decode first, as the rows are."""
    ordered = [c for c in plan.chunks if c.num_tokens == 1 or c.drafts]
    ordered += [c for c in plan.chunks if c not in ordered]
    runs = []
    for chunk in ordered:
        pages: list[int] = []
        for position in range(chunk.start + chunk.num_tokens):
            slot = chunk.sequence.block_table[position // block_tokens] * block_tokens + position % block_tokens
            if slot // PAGE not in pages[-1:]:
                pages.append(slot // PAGE)
        runs.append((chunk.start, chunk.num_tokens, pages))
    return runs


def as_runs(found: Subsequences) -> list[tuple[int, int, list[int]]]:
    counts = np.diff(found.subsequence_begins).tolist()
    spans = zip(found.block_indices_begins[:-1], found.block_indices_begins[1:], strict=True)
    pages = [found.block_indices[start:end].tolist() for start, end in spans]
    return list(zip(found.past_lens.tolist(), counts, pages, strict=True))


@pytest.mark.parametrize("block_tokens", [32, 64, 96])
def test_any_step_is_cut_as_the_slow_cut_does(block_tokens: int) -> None:
    rng = random.Random(block_tokens)
    for _ in range(200):
        plan = random_plan(rng, block_tokens)
        found = cut(build_batch(plan, block_tokens), block_tokens, PAGE)
        expected = slow_cut(plan, block_tokens)
        assert as_runs(found) == expected
        assert found.max_context_len == max(past + new for past, new, _ in expected)
        assert found.block_indices_begins[-1] == len(found.block_indices)


def test_every_array_is_of_the_kind_that_the_graph_takes() -> None:
    found = cut(build_batch(random_plan(random.Random(1), 32), 32), 32, PAGE)
    assert {getattr(found, name).dtype for name in found.__slots__} == {np.dtype(np.int32)}
    assert found.max_context_len.shape == ()
