"""A mixture of experts against a loop over tokens; which experts it calls, and how many bytes that reads."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tokenworks.engine.linear import Linear
from tokenworks.engine.models.feed_forward import (
    DenseFeedForward,
    SparseFeedForward,
    choose_experts,
    group_by_expert,
)

HIDDEN, INNER = 48, 80


class Weights:
    """Plain weights of a mixture, and the mixture packed from them."""

    def __init__(self, num_experts: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)

        def matrix(*shape: int) -> Tensor:
            return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(dtype)

        self.dtype = dtype
        self.router = matrix(num_experts, HIDDEN)
        self.gate, self.up = matrix(num_experts, INNER, HIDDEN), matrix(num_experts, INNER, HIDDEN)
        self.down = matrix(num_experts, HIDDEN, INNER)
        self.generator = generator

    def rows(self, count: int) -> Tensor:
        return torch.randn(count, HIDDEN, generator=self.generator).to(self.dtype)

    def packed(self, num_per_token: int, is_normed: bool) -> SparseFeedForward:
        experts = [
            DenseFeedForward(Linear([gate, up], None, self.dtype), Linear([down], None, self.dtype))
            for gate, up, down in zip(self.gate, self.up, self.down, strict=True)
        ]
        return SparseFeedForward(Linear([self.router], None, self.dtype), experts, num_per_token, is_normed)

    def brute_force(self, x: Tensor, num_per_token: int, is_normed: bool) -> Tensor:
        """Token by token, expert by expert, by the formula, in float64."""
        return torch.stack([self._one_token(row.double(), num_per_token, is_normed) for row in x])

    def _one_token(self, row: Tensor, num_per_token: int, is_normed: bool) -> Tensor:
        scores = torch.exp(self.router.double() @ row)
        probabilities = scores / scores.sum()
        chosen = sorted(range(len(scores)), key=lambda e: -float(probabilities[e]))[:num_per_token]
        total = sum(float(probabilities[e]) for e in chosen) if is_normed else 1.0
        out = torch.zeros(HIDDEN, dtype=torch.float64)
        for e in chosen:
            gate, up = self.gate[e].double() @ row, self.up[e].double() @ row
            inner = gate / (1 + torch.exp(-gate)) * up
            out += float(probabilities[e]) / total * (self.down[e].double() @ inner)
        return out


@pytest.mark.parametrize("is_normed", [True, False])
@pytest.mark.parametrize(
    ("num_rows", "num_experts", "num_per_token"),
    [(1, 8, 2), (2, 1, 1), (7, 8, 8), (31, 32, 1), (64, 5, 3), (300, 16, 4)],
)
def test_it_equals_a_loop_over_tokens(num_rows: int, num_experts: int, num_per_token: int, is_normed: bool) -> None:
    weights = Weights(num_experts, seed=num_rows)
    x = weights.rows(num_rows)
    found = weights.packed(num_per_token, is_normed)(x)
    torch.testing.assert_close(found.double(), weights.brute_force(x, num_per_token, is_normed), rtol=1e-4, atol=1e-5)


def test_in_bf16_it_is_as_near_as_bf16_allows() -> None:
    weights = Weights(num_experts=4, seed=5, dtype=torch.bfloat16)
    x = weights.rows(40)
    # All experts for every token: with fewer, a bf16 router may rightly choose otherwise than the exact one.
    found, exact = weights.packed(4, True)(x), weights.brute_force(x, 4, True)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - exact).norm() / exact.norm()) < 0.01


class Counted(DenseFeedForward):
    """An expert that notes how many rows each call brings."""

    def __init__(self, expert: DenseFeedForward) -> None:
        super().__init__(expert.gate_up, expert.down)
        self.calls: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return super().__call__(x)


def test_an_expert_without_rows_costs_nothing_and_the_others_are_called_once_without_padding() -> None:
    weights = Weights(num_experts=8, seed=1)
    weights.router[2], weights.router[5] = weights.router[0] * 0.5, -weights.router[0]
    mixture = weights.packed(2, True)
    counted = [Counted(expert) for expert in mixture.experts]
    mixture.experts = tuple(counted)
    x = weights.rows(20)
    chosen = choose_experts(x @ weights.router.T, 2, True)[1].flatten().tolist()
    mixture(x)
    assert [expert.calls for expert in counted] == [[chosen.count(e)] if e in chosen else [] for e in range(8)]
    for expert in counted:
        expert.calls.clear()
    mixture(x[:1])
    assert [expert.calls for expert in counted] == [[1] if e in chosen[:2] else [] for e in range(8)]


def test_a_rows_result_does_not_depend_on_who_else_is_in_the_batch() -> None:
    weights = Weights(num_experts=6, seed=2)
    mixture = weights.packed(3, False)
    x = weights.rows(50)
    together = mixture(x)
    for row in range(50):
        torch.testing.assert_close(mixture(x[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-6)


def test_equal_rows_far_apart_get_equal_results() -> None:
    weights = Weights(num_experts=6, seed=3)
    x = weights.rows(400)
    x[[0, 7, 399]] = x[123].clone()
    found = weights.packed(2, True)(x)
    torch.testing.assert_close(found[[0, 7, 399]], found[123].expand(3, -1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(20))
def test_groups_hold_each_pair_once_in_order(seed: int) -> None:
    rng = random.Random(seed)
    num_experts = rng.randrange(1, 40)
    num_per_token = rng.randrange(1, num_experts + 1)
    chosen = [rng.sample(range(num_experts), num_per_token) for _ in range(rng.randrange(1, 30))]
    groups = group_by_expert(torch.tensor(chosen), num_experts)
    expected = {e: [t for t, own in enumerate(chosen) if e in own] for e in range(num_experts)}
    assert groups.experts == [e for e in range(num_experts) if expected[e]]
    assert [rows.tolist() for rows in groups.rows] == [expected[e] for e in groups.experts]
    laid_out = [(e, t) for e in groups.experts for t in expected[e]]
    found = [[laid_out[position] for position in row] for row in groups.positions_Tk.tolist()]
    assert found == [[(e, t) for e in own] for t, own in enumerate(chosen)]


def test_a_step_reads_the_experts_that_have_rows() -> None:
    mixture = Weights(num_experts=16, seed=4).packed(4, True)
    router, expert = 16 * HIDDEN * 4, 3 * HIDDEN * INNER * 4
    assert mixture.num_bytes == router + 16 * expert
    assert mixture.step_bytes(1) == router + 4 * expert
    assert mixture.step_bytes(1000) == mixture.num_bytes
    assert mixture.experts[0].step_bytes(1) == mixture.experts[0].step_bytes(99) == expert
    rng = random.Random(0)
    drawn = [len({e for _ in range(6) for e in rng.sample(range(16), 4)}) for _ in range(4000)]
    assert mixture.step_bytes(6) - router == pytest.approx(sum(drawn) / len(drawn) * expert, rel=0.01)
