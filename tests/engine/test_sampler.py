"""The sampler: each setting against its definition, distributions against expected frequencies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.sampler import sample, uniform_at
from tokenworks.policy.sequence import Sequence


def sequence_of(prompt: list[int], output: list[int] | None = None, **sampling: Any) -> Sequence:
    sequence = Sequence(Request("r", "m", prompt, Sampling(max_tokens=100, **sampling)), 16, "f")
    sequence.token_ids += output or []
    return sequence


def draw(logits: torch.Tensor, **sampling: Any) -> Counter[int]:
    """Frequencies of 4000 draws with different seeds."""
    rows = [sequence_of([0], seed=seed, **sampling) for seed in range(4000)]
    return Counter(sample(logits.expand(len(rows), -1), rows).token_ids)


def test_greedy_is_the_largest_logit() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert sample(logits, [sequence_of([0], temperature=0)] * 2).token_ids == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    expected = (logits / temperature).softmax(-1)
    counts = draw(logits, temperature=temperature)
    for token, probability in enumerate(expected.tolist()):
        deviation = (4000 * probability * (1 - probability)) ** 0.5
        assert abs(counts[token] - 4000 * probability) < 5 * deviation


def test_top_k_keeps_the_k_largest() -> None:
    assert set(draw(torch.tensor([1.0, 1.2, 0.9, 1.1]), top_k=2)) == {1, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(draw(logits, top_p=0.49)) == {0}
    assert set(draw(logits, top_p=0.51)) == {0, 1}
    assert set(draw(logits, top_p=0.94)) == {0, 1, 2}


def test_top_p_counts_within_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert set(draw(logits, top_k=2, top_p=0.5)) == {0}  # 0.4 of 0.7 is more than half
    assert set(draw(logits, top_p=0.5)) == {0, 1}


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.26, 0.24]).log()
    assert set(draw(logits, min_p=0.5)) == {0, 1}


def test_top_p_over_a_flat_vocabulary_larger_than_the_candidates_is_exact() -> None:
    counts = draw(torch.zeros(2000), top_p=0.9)
    assert len(counts) > 1500  # of 1800 that survive; 512 candidates would show here
    assert len(counts) <= 1800


def test_a_draw_depends_on_seed_and_position_only() -> None:
    logits = torch.randn(1, 1000)
    first = sample(logits, [sequence_of([1, 2], [3], seed=5)]).token_ids
    assert sample(logits, [sequence_of([7], [9], seed=5)]).token_ids == first
    many = {sample(logits, [sequence_of([1], [0] * n, seed=5)]).token_ids[0] for n in range(20)}
    assert len(many) > 5
    values = [uniform_at(seed, position) for seed in (0, -1, 2**63) for position in range(100)]
    assert len(set(values)) == 300
    assert all(0 <= value < 1 for value in values)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens() -> None:
    logits = torch.tensor([[2.0, 1.5, -0.1]])
    assert sample(logits, [sequence_of([0], temperature=0, repetition_penalty=2.0)]).token_ids == [1]
    assert sample(-logits, [sequence_of([2], temperature=0, repetition_penalty=1.5)]).token_ids == [2]
    logits = torch.tensor([[-1.0, -1.1]])
    assert sample(logits, [sequence_of([0], temperature=0, repetition_penalty=1.2)]).token_ids == [1]


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = torch.tensor([[2.0, 1.4]])
    assert sample(logits, [sequence_of([0, 0, 0], temperature=0, presence_penalty=1.0)]).token_ids == [0]
    assert sample(logits, [sequence_of([1], [0], temperature=0, presence_penalty=1.0)]).token_ids == [1]
    assert sample(logits, [sequence_of([1], [0], temperature=0, frequency_penalty=0.4)]).token_ids == [0]
    assert sample(logits, [sequence_of([1], [0, 0], temperature=0, frequency_penalty=0.4)]).token_ids == [1]


def test_penalties_do_not_touch_other_rows() -> None:
    logits = torch.tensor([[2.0, 1.9], [2.0, 1.9]])
    rows = [sequence_of([0], temperature=0, repetition_penalty=3.0), sequence_of([0], temperature=0)]
    assert sample(logits, rows).token_ids == [1, 0]


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    row = sequence_of([0], temperature=0.3, num_logprobs=2, seed=1)
    result = sample(logits, [row]).logprobs[0]
    assert result is not None
    expected = logits[0].log_softmax(-1)
    assert result.top_token_ids == [0, 1]
    assert result.top_logprobs == pytest.approx(expected[:2].tolist())
    assert result.chosen == pytest.approx(float(expected[sample(logits, [row]).token_ids[0]]))
    assert sample(logits, [sequence_of([0])]).logprobs == [None]
    only_chosen = sample(logits, [sequence_of([0], temperature=0, num_logprobs=0)]).logprobs[0]
    assert only_chosen is not None
    assert only_chosen.top_token_ids == []
