"""The sampler: each setting against its definition, distributions against expected frequencies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.sampler import sample, uniform_at
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.step_plan import Chunk


def chunk_of(
    prompt: list[int], output: list[int] | None = None, drafts: tuple[int, ...] = (), **sampling: Any
) -> Chunk:
    """The decode of a sequence with that output so far."""
    sequence = Sequence(Request("r", "m", prompt, Sampling(max_tokens=100, **sampling)), 16, "f")
    sequence.token_ids += output or []
    return Chunk(sequence, len(sequence.token_ids) - 1, 1 + len(drafts), 1 + len(drafts), drafts)


def tokens(logits: torch.Tensor, chunks: list[Chunk]) -> list[int]:
    """One token of each chunk."""
    return [token_id for (token_id,) in sample(logits, chunks).token_ids]


def draw(logits: torch.Tensor, **sampling: Any) -> Counter[int]:
    """Frequencies of 4000 draws with different seeds."""
    rows = [chunk_of([0], seed=seed, **sampling) for seed in range(4000)]
    return Counter(tokens(logits.expand(len(rows), -1), rows))


def test_greedy_is_the_largest_logit() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert tokens(logits, [chunk_of([0], temperature=0)] * 2) == [1, 0]


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
    first = tokens(logits, [chunk_of([1, 2], [3], seed=5)])
    assert tokens(logits, [chunk_of([7], [9], seed=5)]) == first
    many = {tokens(logits, [chunk_of([1], [0] * n, seed=5)])[0] for n in range(20)}
    assert len(many) > 5
    values = [uniform_at(seed, position) for seed in (0, -1, 2**63) for position in range(100)]
    assert len(set(values)) == 300
    assert all(0 <= value < 1 for value in values)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens() -> None:
    logits = torch.tensor([[2.0, 1.5, -0.1]])
    assert tokens(logits, [chunk_of([0], temperature=0, repetition_penalty=2.0)]) == [1]
    assert tokens(-logits, [chunk_of([2], temperature=0, repetition_penalty=1.5)]) == [2]
    logits = torch.tensor([[-1.0, -1.1]])
    assert tokens(logits, [chunk_of([0], temperature=0, repetition_penalty=1.2)]) == [1]


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = torch.tensor([[2.0, 1.4]])
    assert tokens(logits, [chunk_of([0, 0, 0], temperature=0, presence_penalty=1.0)]) == [0]
    assert tokens(logits, [chunk_of([1], [0], temperature=0, presence_penalty=1.0)]) == [1]
    assert tokens(logits, [chunk_of([1], [0], temperature=0, frequency_penalty=0.4)]) == [0]
    assert tokens(logits, [chunk_of([1], [0, 0], temperature=0, frequency_penalty=0.4)]) == [1]


def test_penalties_do_not_touch_other_rows() -> None:
    logits = torch.tensor([[2.0, 1.9], [2.0, 1.9]])
    rows = [chunk_of([0], temperature=0, repetition_penalty=3.0), chunk_of([0], temperature=0)]
    assert tokens(logits, rows) == [1, 0]


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    row = chunk_of([0], temperature=0.3, num_logprobs=2, seed=1)
    (result,) = sample(logits, [row]).logprobs[0] or []
    expected = logits[0].log_softmax(-1)
    assert result.top_token_ids == [0, 1]
    assert result.top_logprobs == pytest.approx(expected[:2].tolist())
    assert result.chosen == pytest.approx(float(expected[tokens(logits, [row])[0]]))
    assert sample(logits, [chunk_of([0])]).logprobs == [None]
    (only_chosen,) = sample(logits, [chunk_of([0], temperature=0, num_logprobs=0)]).logprobs[0] or []
    assert only_chosen.top_token_ids == []


def test_greedy_rows_count_up_to_the_first_wrong_draft() -> None:
    logits = torch.eye(4)[[1, 2, 3, 0]]
    right, wrong = chunk_of([0], drafts=(1, 2, 3), temperature=0), chunk_of([0], drafts=(1, 0, 3), temperature=0)
    plain = chunk_of([0], temperature=0, num_logprobs=0)
    result = sample(torch.cat((logits, logits[:1], logits)), [right, plain, wrong])
    assert result.token_ids == [[1, 2, 3, 0], [1], [1, 2]]
    assert [None if found is None else len(found) for found in result.logprobs] == [None, 1, None]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.0, "seed": 4, "top_p": 0.9, "num_logprobs": 2},
        {"temperature": 0.0, "repetition_penalty": 1.7},
        {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.4, "num_logprobs": 0},
    ],
)
def test_a_row_behind_drafts_is_sampled_as_if_they_had_been_output(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 12)
    output, logprobs = [5], []
    for row in range(6):
        result = sample(logits[row : row + 1], [chunk_of([1, 2], output, **settings)])
        output += result.token_ids[0]
        logprobs += result.logprobs[0] or []
    ahead = sample(logits, [chunk_of([1, 2], [5], tuple(output[1:6]), **settings)])
    assert ahead.token_ids == [output[1:]]
    assert (ahead.logprobs[0] or []) == logprobs
    wrong = (output[1], output[2], (output[3] + 1) % 12, 0, 0)
    assert sample(logits, [chunk_of([1, 2], [5], wrong, **settings)]).token_ids == [output[1:4]]


def test_penalties_follow_a_growing_sequence_and_leave_the_logits_as_they_were() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 40) * 2
    raw = logits.clone()
    settings = {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}
    growing = chunk_of([3, 3, 7], **settings)
    plain = chunk_of([3, 3, 7], temperature=0)
    for _ in range(30):
        kept = growing.sequence.token_ids[:]
        found = tokens(logits[:2], [growing, plain])
        assert found == [tokens(raw[:1], [chunk_of([3, 3, 7], kept[3:], **settings)])[0], int(raw[1].argmax())]
        assert found[0] == int(penalised_by_definition(raw[0], [3, 3, 7], kept[3:], settings).argmax())
        growing.sequence.token_ids.append(found[0])
    assert len(set(growing.sequence.token_ids)) > 3
    assert torch.equal(logits, raw)


def penalised_by_definition(
    logits: torch.Tensor, prompt: list[int], output: list[int], settings: dict[str, float]
) -> torch.Tensor:
    result = logits.clone()
    for token in {*prompt, *output}:
        factor = settings["repetition_penalty"]
        result[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token, count in Counter(output).items():
        result[token] -= settings["presence_penalty"] + settings["frequency_penalty"] * count
    return result


def test_rows_that_share_their_memory_are_penalised_apart() -> None:
    logits = torch.tensor([2.0, 1.9]).expand(2, -1)
    rows = [chunk_of([0], temperature=0, repetition_penalty=3.0), chunk_of([1], temperature=0)]
    assert tokens(logits, rows) == [1, 0]


def test_more_logprobs_than_tokens_can_occur_are_those_that_can() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 1.0]])
    (found,) = sample(logits, [chunk_of([0], temperature=0, num_logprobs=3)]).logprobs[0] or []
    assert found.top_token_ids == [2, 0]


def test_requests_get_as_many_logprobs_as_each_asked_for() -> None:
    rows = [chunk_of([0], temperature=0, num_logprobs=count) for count in (0, None, 3, 1)]
    found = sample(torch.randn(4, 9), rows).logprobs
    assert [None if row is None else len(row[0].top_logprobs) for row in found] == [0, None, 3, 1]
