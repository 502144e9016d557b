"""Which layers of a checkpoint are a mixture of experts, and of what kind, read from Hugging Face's `config.json`.

A sparse layer has many small feed-forward networks, the experts; a router sends each token to a few of them. Where
Qwen3-MoE and Mixtral differ (which layers are sparse, how the router's weights are normed, what tensors are called),
the difference is a field here. Both spellings of the number of experts are read: `num_experts`, which Qwen3-MoE has on
the hub, and `num_local_experts`, which Mixtral has and transformers 5 writes for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tokenworks.contract.errors import CheckpointError


class ExpertNames(msgspec.Struct, frozen=True):
    """What a sparse layer's tensors are called on disk: `{block}.gate.weight`, `{block}.experts.N.{gate}.weight` ..."""

    block: str
    gate: str
    up: str
    down: str


class ExpertsConfig(msgspec.Struct, frozen=True):
    """The mixture of experts of the sparse layers."""

    num_experts: int
    num_per_token: int  # experts that compute one token
    intermediate_size: int  # of one expert
    is_normed: bool  # a token's weights are divided by their sum
    is_sparse: tuple[bool, ...]  # per layer; the others have one feed-forward network as ever
    names: ExpertNames

    def num_resting_parameters(self, hidden_size: int) -> int:
        """Parameters of all layers' experts that one token does not pass through."""
        num_resting = sum(self.is_sparse) * (self.num_experts - self.num_per_token)
        return num_resting * 3 * hidden_size * self.intermediate_size


QWEN3_MOE: Final = "Qwen3MoeForCausalLM"
MIXTRAL: Final = "MixtralForCausalLM"

_QWEN3_NAMES: Final = ExpertNames("mlp", "gate_proj", "up_proj", "down_proj")
_MIXTRAL_NAMES: Final = ExpertNames("block_sparse_moe", "w1", "w3", "w2")


def read_experts(raw: Mapping[str, Any], architecture: str) -> ExpertsConfig | None:
    """The experts that a config asks for; None where every layer is dense. Raises CheckpointError, KeyError."""
    if architecture not in (QWEN3_MOE, MIXTRAL):
        return None
    if raw.get("mlp_bias"):
        raise CheckpointError(f"{architecture} with mlp_bias is not supported: its experts would miss their biases")
    is_mixtral = architecture == MIXTRAL
    experts = ExpertsConfig(
        num_experts=_num_experts(raw),
        num_per_token=int(raw["num_experts_per_tok"]),
        intermediate_size=int(raw["intermediate_size" if is_mixtral else "moe_intermediate_size"]),
        is_normed=is_mixtral or bool(raw.get("norm_topk_prob", False)),
        is_sparse=(True,) * int(raw["num_hidden_layers"]) if is_mixtral else _sparse_layers(raw),
        names=_MIXTRAL_NAMES if is_mixtral else _QWEN3_NAMES,
    )
    if not any(experts.is_sparse):
        return None
    if not 1 <= experts.num_per_token <= experts.num_experts:
        raise CheckpointError(
            f"num_experts_per_tok is {experts.num_per_token}, which is not from 1 to the {experts.num_experts} experts"
        )
    return experts


def _num_experts(raw: Mapping[str, Any]) -> int:
    given = raw.get("num_experts", raw.get("num_local_experts"))
    if given is None:
        raise KeyError("num_experts")
    return int(given)


def _sparse_layers(raw: Mapping[str, Any]) -> tuple[bool, ...]:
    """Qwen3-MoE: every `decoder_sparse_step`-th layer, but for those that `mlp_only_layers` names."""
    step = int(raw.get("decoder_sparse_step", 1))
    if step < 1:
        raise CheckpointError(f"decoder_sparse_step is {step}; it must be at least 1")
    dense = set(raw.get("mlp_only_layers") or ())
    has_experts = _num_experts(raw) > 0
    return tuple(
        has_experts and index not in dense and (index + 1) % step == 0 for index in range(int(raw["num_hidden_layers"]))
    )
