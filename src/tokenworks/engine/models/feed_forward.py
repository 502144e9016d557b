"""The feed-forward network of a layer: one for every token, or a mixture of experts of which each token takes a few.

    dense:   y = down(silu(gate(x)) * up(x))
    sparse:  y = sum over the token's experts e of  weight_e * dense_e(x)

A sparse layer sorts its (row, expert) pairs by expert once, so that each expert that has rows computes all of them in
one go, without padding; an expert that has none is not touched. Shape suffixes: T rows, E experts, k experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenworks.engine.kernels.experts import combine, sort_by_expert
from tokenworks.engine.linear import Linear
from tokenworks.engine.linear_quantized import QuantizedLinear


class FeedForward(Protocol):
    """What a layer needs of either kind."""

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""

    def step_bytes(self, num_rows: int) -> int:
        """Bytes of weights that a step over `num_rows` rows reads."""


class DenseFeedForward:
    """A gated network; also what one expert is."""

    def __init__(self, gate_up: Linear | QuantizedLinear, down: Linear | QuantizedLinear) -> None:
        self.gate_up = gate_up
        self.down = down

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights."""
        return self.gate_up.num_bytes + self.down.num_bytes

    def step_bytes(self, num_rows: int) -> int:
        """All of them, for any number of rows."""
        return self.num_bytes


class SparseFeedForward:
    """A router and its experts."""

    def __init__(
        self, router: Linear, experts: Sequence[DenseFeedForward], num_per_token: int, is_normed: bool
    ) -> None:
        self.router = router
        self.experts = tuple(experts)
        self.num_per_token = num_per_token
        self.is_normed = is_normed

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, hidden]."""
        weights_Tk, chosen_Tk = choose_experts(self.router(x), self.num_per_token, self.is_normed)
        groups = group_by_expert(chosen_Tk, len(self.experts))
        results = [
            self.experts[e](x.index_select(0, rows)) for e, rows in zip(groups.experts, groups.rows, strict=True)
        ]
        return combine(torch.cat(results), groups.positions_Tk, weights_Tk)

    @property
    def num_bytes(self) -> int:
        """Bytes of packed weights, of all experts."""
        return self.router.num_bytes + sum(expert.num_bytes for expert in self.experts)

    def step_bytes(self, num_rows: int) -> int:
        """The router and the experts that have rows: exact for one row, the expectation of a uniform router for more.

        A row misses a given expert with probability 1 - k / E, all rows miss it with that to the power of T.
        """
        share_missed = (1 - self.num_per_token / len(self.experts)) ** num_rows
        return self.router.num_bytes + round((1 - share_missed) * (self.num_bytes - self.router.num_bytes))


def choose_experts(logits_TE: Tensor, num_per_token: int, is_normed: bool) -> tuple[Tensor, Tensor]:
    """Each row's weights, float32 [T, k], descending, and its experts, int64 [T, k].

    As `transformers` does for Qwen3-MoE and Mixtral: a float32 softmax over all experts, of which the k most probable
    are kept, and divided by their sum where `is_normed`. It then rounds Qwen3-MoE's weights to the model's dtype; here
    only their product with the experts' results is rounded.
    """
    weights_Tk, chosen_Tk = logits_TE.float().softmax(dim=-1).topk(num_per_token, dim=-1)
    return weights_Tk / weights_Tk.sum(dim=-1, keepdim=True) if is_normed else weights_Tk, chosen_Tk


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """The rows of each expert that has any, and where a row finds its results when the groups lie end to end."""

    experts: list[int]  # ascending
    rows: tuple[Tensor, ...]  # int64, of each of `experts`, ascending
    positions_Tk: Tensor  # int64


def group_by_expert(chosen_Tk: Tensor, num_experts: int) -> ExpertGroups:
    """Sort (row, expert) pairs by expert."""
    rows_P, positions_Tk, starts = sort_by_expert(chosen_Tk, num_experts)
    experts = [e for e in range(num_experts) if starts[e] < starts[e + 1]]
    rows = tuple(rows_P[starts[e] : starts[e + 1]] for e in experts)
    return ExpertGroups(experts, rows, positions_Tk)
