"""Speculation changes no token: with guesses right and wrong, on every path, and with the real speculator."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import EndReason
from tokenworks.engine import build
from tokenworks.engine.batch import build_batch
from tokenworks.policy.sequence import Sequence
from tokenworks.policy.speculation import Speculator
from tokenworks.policy.step_plan import Chunk, StepPlan

NAMES = [
    "llama3",
    "llama-biases-linear-rope",
    "qwen2",
    "qwen2-sliding",
    "qwen3-tied",
    "qwen3-yarn",
    "mistral-sliding",
]
NEW_TOKENS = 24
Requests = dict[str, tuple[list[int], Sampling]]
Run = Callable[..., dict[str, Any]]


class Drafter(Speculator):
    """Guesses with the known answers, wrong one time in five."""

    def __init__(self, answers: dict[str, list[int]]) -> None:
        super().__init__()
        self.answers = answers
        self.random = random.Random(0)

    def draft(self, sequences: list[Sequence], num_rows: int, most: int) -> list[list[int]]:
        return [self.guess(sequence, min(6, most // len(sequences))) for sequence in sequences]

    def guess(self, sequence: Sequence, most: int) -> list[int]:
        coming = self.answers[sequence.request.id][sequence.num_output :]
        drafts = coming[: self.random.randint(0, most)]
        return [token if self.random.random() < 0.8 else self.random.randrange(512) for token in drafts]


class Fearless(Speculator):
    """The real one, for whom rows are free: what it does must not depend on how busy this machine is."""

    def draft(self, sequences: list[Sequence], num_rows: int, most: int) -> list[list[int]]:
        self.costs = type(self.costs)()
        return super().draft(sequences, num_rows, most)


def requests_of_every_kind() -> Requests:
    rng = random.Random(5)
    kinds = {
        "greedy": {"temperature": 0},
        "greedy-logprobs": {"temperature": 0, "num_logprobs": 3},
        "sampled": {"temperature": 0.9, "seed": 1},
        "sampled-logprobs": {"temperature": 1.1, "seed": 2, "top_p": 0.9, "num_logprobs": 0},
        "top-k": {"temperature": 0.8, "seed": 3, "top_k": 20, "min_p": 0.02},
        "penalised": {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.2},
        "penalised-sampled": {"temperature": 1.0, "seed": 4, "presence_penalty": 0.7, "num_logprobs": 2},
    }
    return {
        name: ([rng.randrange(512) for _ in range(rng.choice([1, 7, 8, 9, 40]))], Sampling(NEW_TOKENS, **settings))
        for name, settings in kinds.items()
    }


def drafting_engine(reference: Any, answers: dict[str, list[int]], patch: pytest.MonkeyPatch, **settings: Any) -> Any:
    patch.setattr(build, "Speculator", lambda: Drafter(answers))
    return reference.engine(**settings)


def check_same(found: dict[str, Any], expected: dict[str, Any], tokens_of: Any) -> None:
    for name, outputs in expected.items():
        assert tokens_of(found[name]) == tokens_of(outputs), name
        assert found[name][-1].end.reason == outputs[-1].end.reason
        assert found[name][-1].end.stop_token_id == outputs[-1].end.stop_token_id
        assert found[name][0].cached_tokens is not None
        assert all(output.cached_tokens is None for output in found[name][1:])
        for ours, theirs in zip(logprobs_of(found[name]), logprobs_of(outputs), strict=True):
            assert ours.chosen == pytest.approx(theirs.chosen, abs=1e-3)
            assert ours.top_token_ids == theirs.top_token_ids
            assert ours.top_logprobs == pytest.approx(theirs.top_logprobs, abs=1e-3)


def logprobs_of(outputs: list[Any]) -> list[Any]:
    assert all(output.logprobs is None or len(output.logprobs) == len(output.token_ids) for output in outputs)
    return [found for output in outputs for found in output.logprobs or []]


@pytest.mark.parametrize("name", NAMES)
def test_speculation_changes_no_token(
    name: str, references: Any, run_requests: Run, tokens_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, reference = requests_of_every_kind(), references(name)
    plain = reference.engine(speculation="off")
    expected = run_requests(plain, requests)
    answers = {key: tokens_of(outputs) for key, outputs in expected.items()}
    engine = drafting_engine(reference, answers, monkeypatch)
    check_same(run_requests(engine, requests), expected, tokens_of)
    assert 0 < engine.load.accepted_tokens < engine.load.draft_tokens
    assert engine.load.steps < plain.load.steps
    assert plain.load.draft_tokens == 0
    assert engine.load.free_blocks == engine.load.total_blocks


@pytest.mark.parametrize("name", ["qwen3-tied", "mistral-sliding"])
@pytest.mark.parametrize("settings", [{"num_blocks": 12}, {"max_step_tokens": 17}])
def test_speculation_changes_no_token_under_pressure(
    name: str, settings: Any, references: Any, run_requests: Run, tokens_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, reference = requests_of_every_kind(), references(name)
    expected = run_requests(reference.engine(speculation="off"), requests)
    answers = {key: tokens_of(outputs) for key, outputs in expected.items()}
    engine = drafting_engine(reference, answers, monkeypatch, **settings)
    check_same(run_requests(engine, requests), expected, tokens_of)
    assert (engine.load.preemptions > 0) == ("num_blocks" in settings)
    assert engine.load.accepted_tokens > 0


@pytest.mark.parametrize("stop_at", range(1, NEW_TOKENS, 3))
def test_a_stop_token_or_a_limit_in_the_middle_of_drafts_is_kept_to(
    stop_at: int, references: Any, run_requests: Run, tokens_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = references("qwen2")
    prompt = list(range(30))
    free = Sampling(NEW_TOKENS, temperature=1.0, seed=9)
    answer = tokens_of(run_requests(reference.engine(speculation="off"), {"a": (prompt, free)})["a"])
    engine = drafting_engine(reference, {"stop": answer, "limit": answer}, monkeypatch)
    stop = Sampling(NEW_TOKENS, temperature=1.0, seed=9, stop_token_ids=(answer[stop_at],))
    outputs = run_requests(
        engine, {"stop": (prompt, stop), "limit": (prompt, Sampling(stop_at, temperature=1.0, seed=9))}
    )
    assert tokens_of(outputs["stop"]) == answer[: answer.index(answer[stop_at]) + 1]
    assert outputs["stop"][-1].end.reason is EndReason.STOP
    assert outputs["stop"][-1].end.stop_token_id == answer[stop_at]
    assert tokens_of(outputs["limit"]) == answer[:stop_at]
    assert outputs["limit"][-1].end.reason is EndReason.LENGTH


def test_blocks_filled_by_drafts_serve_the_next_turn(
    references: Any, run_requests: Run, tokens_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = references("qwen3-tied")
    prompt, greedy = list(range(100, 121)), Sampling(43, temperature=0)
    first = {"first": (prompt, greedy)}
    answer = tokens_of(run_requests(reference.engine(speculation="off"), first)["first"])
    engine = drafting_engine(reference, {"first": answer, "next": []}, monkeypatch)
    assert tokens_of(run_requests(engine, first)["first"]) == answer
    assert engine.load.accepted_tokens > 8
    turn = [*prompt, *answer, 7, 8, 9]
    found = run_requests(engine, {"next": (turn, greedy)})["next"]
    assert found[0].cached_tokens == (len(prompt) + 43 - 1) // 8 * 8  # all but what was never computed
    assert tokens_of(found) == reference.greedy(turn, 43)


@pytest.mark.parametrize("name", ["qwen3-tied", "llama3"])
def test_the_real_speculator_saves_steps_and_no_token_changes(
    name: str, references: Any, run_requests: Run, tokens_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repetition penalty below 1 is a reward: these sequences repeat themselves, now and then with a change."""
    reference = references(name)
    rng = random.Random(1)
    requests = {
        str(seed): (
            [rng.randrange(512) for _ in range(20)],
            Sampling(150, temperature, repetition_penalty=0.1, seed=seed),
        )
        for seed, temperature in enumerate((0, 0, 0.3))
    }
    plain = reference.engine(speculation="off")
    expected = run_requests(plain, requests)
    monkeypatch.setattr(build, "Speculator", Fearless)
    engine = reference.engine()
    check_same(run_requests(engine, requests), expected, tokens_of)
    assert engine.load.accepted_tokens > 50
    assert engine.load.steps < plain.load.steps


def test_no_sequence_runs_ahead_in_plain_steps(
    references: Any, run_requests: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "Speculator", Fearless)
    for speculation in ("auto", "off"):
        engine = references("qwen2").engine(speculation=speculation)
        request = {"a": ([5] * 40, Sampling(8, temperature=0))}
        with engine.plain_steps():
            run_requests(engine, request)
        assert engine.load.draft_tokens == 0
        run_requests(engine, request)
        assert (engine.load.draft_tokens > 0) == (speculation == "auto")


def test_step_times_come_from_the_clock_that_the_engine_is_given(references: Any, run_requests: Run) -> None:
    engine = references("qwen2").engine()
    engine._clock_ns = itertools.count(0, 10**9).__next__
    run_requests(engine, {"a": ([1, 2, 3], Sampling(4, temperature=0))})
    assert engine._speculator.costs.seconds(3) == engine._speculator.costs.seconds(1) == 1.0


def test_rows_of_a_chunk_with_drafts_share_a_table_and_grow_by_one() -> None:
    sequences = [Sequence(Request(name, "m", list(range(6)), Sampling(9)), 4, "f") for name in "abc"]
    for at, sequence in enumerate(sequences):
        sequence.block_table = [10 * at + 1, 10 * at + 2]
    a, b, c = sequences
    plan = StepPlan((Chunk(b, 0, 4, 0), Chunk(a, 5, 3, 3, (70, 71)), Chunk(c, 5, 1, 1)))
    batch = build_batch(plan, 4)
    assert batch.token_ids.tolist() == [5, 70, 71, 5, 0, 1, 2, 3]
    assert batch.positions.tolist() == [5, 6, 7, 5, 0, 1, 2, 3]
    assert batch.slots.tolist() == [9, 10, 11, 89, 44, 45, 46, 47]
    assert batch.sampled_rows.tolist() == [0, 1, 2, 3]
    assert batch.decode.lengths.tolist() == [6, 7, 8, 6]
    assert batch.decode.sequences.tolist() == [0, 0, 0, 1]
    assert batch.decode.blocks.tolist() == [[1, 2]] * 3 + [[21, 22]]
    assert [chunk.first_row for chunk in batch.prefill] == [4]
