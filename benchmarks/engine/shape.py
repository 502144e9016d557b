"""How many parameters a model multiplies by, and how many it reads: counted from its config, experts included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenworks.engine.model_config import ModelConfig, read_json, read_model_config


@dataclass(frozen=True)
class ModelShape:
    """A decoder's matrices. Norms and biases are left out: a thousandth of the whole."""

    hidden_size: int
    intermediate_size: int  # of a dense feed-forward network, or of one expert
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_experts: int = 1
    experts_per_token: int = 1
    is_tied: bool = True  # the output projection is the embedding
    windows: tuple[int | None, ...] = ()  # per layer: how many last tokens it attends to; none given: all

    @property
    def attention_parameters(self) -> int:
        """Of one layer: query, key, value and output projections, and the router where there are experts."""
        width = 2 * self.num_heads + 2 * self.num_kv_heads
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        return self.hidden_size * width * self.head_dim + router

    @property
    def expert_parameters(self) -> int:
        """Of one expert of one layer, or of the dense network: gate, up and down."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def head_parameters(self) -> int:
        """The output projection."""
        return self.hidden_size * self.vocab_size

    @property
    def layer_parameters(self) -> int:
        """Of all layers, all experts."""
        return self.num_layers * (self.attention_parameters + self.num_experts * self.expert_parameters)

    @property
    def matrix_parameters(self) -> int:
        """Of all layers and the output projection; the embedding is looked up, not multiplied."""
        return self.layer_parameters + self.head_parameters

    @property
    def stored_parameters(self) -> int:
        """Of a file: the matrices, and an embedding of its own where the output projection is another."""
        return self.matrix_parameters + (0 if self.is_tied else self.head_parameters)

    @property
    def active_layer_parameters(self) -> int:
        """Of all layers, those that one token is multiplied by."""
        return self.num_layers * (self.attention_parameters + self.experts_per_token * self.expert_parameters)

    def kv_bytes_per_token(self, itemsize: int = 2) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * itemsize

    def layer_windows(self) -> tuple[int | None, ...]:
        """One a layer."""
        return self.windows or (None,) * self.num_layers


def read_shape(checkpoint: Path) -> ModelShape:
    """The shape of a checkpoint; raises CheckpointError."""
    return shape_of(read_model_config(checkpoint), read_json(checkpoint / "config.json"))


def shape_of(config: ModelConfig, raw: dict[str, Any]) -> ModelShape:
    """From the engine's reading of the config; experts come from the raw one, by the names of Qwen and Mixtral."""
    experts = int(raw.get("num_experts") or raw.get("num_local_experts") or 1)
    inner = (
        int(raw.get("moe_intermediate_size") or config.intermediate_size) if experts > 1 else config.intermediate_size
    )
    return ModelShape(
        hidden_size=config.hidden_size,
        intermediate_size=inner,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        num_experts=experts,
        experts_per_token=int(raw.get("num_experts_per_tok") or 1) if experts > 1 else 1,
        is_tied=config.is_tied,
        windows=config.windows,
    )
