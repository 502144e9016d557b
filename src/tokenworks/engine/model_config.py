"""What the decoder needs to know of a checkpoint, read from Hugging Face's `config.json`.

One struct for Llama 3, Qwen2/2.5, Qwen3, Qwen3-MoE, Mistral and Mixtral: where the families differ (biases, query/key
norms, sliding windows, rope scaling, experts), the difference becomes a field, so that the decoder has no family names.
Both spellings of rope settings are read: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (5).

Invariant: a config that this engine would compute wrongly is refused by name, never approximated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.contract.errors import CheckpointError
from tokenworks.engine.experts_config import MIXTRAL, QWEN3_MOE, ExpertsConfig, read_experts
from tokenworks.engine.stored_quantization import StoredQuantization, read_stored_quantization

ARCHITECTURES: Final = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    QWEN3_MOE,
    MIXTRAL,
)
ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn")
_ROPE_NEEDS: Final = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}
_ROPE_NUMBERS: Final = (
    *("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    *("beta_fast", "beta_slow", "attention_factor"),
)
"""Those that are given are above 0."""
_SIZES: Final = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_context_tokens",
)

_FAMILY_DEFAULTS: Final[dict[str, dict[str, Any]]] = {MIXTRAL: {"rope_theta": 1e6, "rms_norm_eps": 1e-5}}
"""What `transformers` takes where a config of the family is silent, and the other families have another value."""


class RopeConfig(msgspec.Struct, frozen=True):
    """Rotary embedding: base frequency and, where the checkpoint stretches its window, how."""

    theta: float
    type: str = "default"
    parameters: dict[str, Any] = {}  # the checkpoint's own, for the formula of `type`


class ModelConfig(msgspec.Struct, frozen=True):
    """A decoder-only transformer's shape."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_context_tokens: int
    rms_norm_eps: float
    rope: RopeConfig
    is_tied: bool  # the output projection is the embedding table
    has_qkv_bias: bool
    has_output_bias: bool  # of the attention's output projection
    has_mlp_bias: bool
    has_qk_norm: bool
    windows: tuple[int | None, ...]  # per layer: how many last tokens it attends to; None is all
    dtype: str  # of the stored weights
    stored_quantization: StoredQuantization | None = None
    experts: ExpertsConfig | None = None  # where there are sparse layers

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """The experts of a sparse layer, None for a dense one."""
        return self.experts if self.experts and self.experts.is_sparse[layer] else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint file; raises CheckpointError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: point at a Hugging Face checkpoint directory") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object: fetch the file again")
    return value


def read_model_config(directory: Path) -> ModelConfig:
    """The config of a checkpoint; raises CheckpointError for what is missing, malformed or not supported."""
    path = directory / "config.json"
    raw = read_json(path)
    architecture = _architecture(raw, path)
    try:
        config = _build(
            {**_FAMILY_DEFAULTS.get(architecture, {}), **raw}, architecture, read_stored_quantization(raw, path)
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}: it is no complete {architecture} config") from error
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} has a value of the wrong kind: {error}") from error
    if fault := _fault(config):
        raise CheckpointError(f"{path}: {fault}")
    return config


def _architecture(raw: Mapping[str, Any], path: Path) -> str:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else "(none named)"
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{path}: architecture {name} is not supported; supported: {', '.join(ARCHITECTURES)}")
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{path}: hidden_act {raw['hidden_act']!r} is not supported; supported: 'silu'")
    return str(name)


def _build(raw: Mapping[str, Any], architecture: str, stored: StoredQuantization | None) -> ModelConfig:
    num_heads = int(raw["num_attention_heads"])
    is_qwen2 = architecture == "Qwen2ForCausalLM"
    has_bias = bool(raw.get("attention_bias", False))
    return ModelConfig(
        architecture=architecture,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or num_heads),
        head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // num_heads),
        max_context_tokens=int(raw["max_position_embeddings"]),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=_rope(raw),
        is_tied=bool(raw.get("tie_word_embeddings", False)),
        has_qkv_bias=is_qwen2 or has_bias,
        has_output_bias=has_bias and not is_qwen2,
        has_mlp_bias=bool(raw.get("mlp_bias", False)),
        has_qk_norm=architecture in ("Qwen3ForCausalLM", QWEN3_MOE),
        windows=_windows(raw, architecture),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        experts=read_experts(raw, architecture),
        stored_quantization=stored,
    )


def _fault(config: ModelConfig) -> str | None:
    """What is at odds in sizes that are numbers all the same; None where nothing is."""
    if wrong := next((name for name in _SIZES if getattr(config, name) < 1), None):
        return f"{wrong} comes to {getattr(config, wrong)}; it must be at least 1"
    if config.num_heads % config.num_kv_heads:
        return f"{config.num_heads} query heads cannot share {config.num_kv_heads} key/value heads evenly"
    if config.head_dim % 2:
        return f"head_dim {config.head_dim} is odd: rotary embedding turns halves"
    if len(config.windows) != config.num_layers:
        return f"layer_types names {len(config.windows)} layers, num_hidden_layers {config.num_layers}"
    numbers = {"rope_theta": config.rope.theta, **{name: config.rope.parameters.get(name) for name in _ROPE_NUMBERS}}
    wrong = next((name for name, value in numbers.items() if value is not None and not float(value) > 0), None)
    return f"{wrong} is {numbers[wrong]}; it must be above 0" if wrong else None


def _rope(raw: Mapping[str, Any]) -> RopeConfig:
    given = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = str(given.get("rope_type") or given.get("type") or "default")
    if kind not in ROPE_TYPES:
        raise CheckpointError(f"rope type {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}")
    if float(given.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))) != 1.0:
        raise CheckpointError("partial_rotary_factor other than 1 is not supported")
    given.setdefault("original_max_position_embeddings", raw["max_position_embeddings"])
    given |= {name: float(given[name]) for name in _ROPE_NEEDS.get(kind, ())}
    given |= {name: float(given[name]) for name in _ROPE_NUMBERS if given.get(name) is not None}
    return RopeConfig(theta=float(given.get("rope_theta", raw.get("rope_theta", 10000.0))), type=kind, parameters=given)


def _windows(raw: Mapping[str, Any], architecture: str) -> tuple[int | None, ...]:
    """Mistral and Mixtral slide in every layer; Qwen only where `use_sliding_window` is set, in the layers it names.

    Qwen3-MoE names none: `transformers` then slides in every layer, whatever `max_window_layers` says.
    """
    num_layers = int(raw["num_hidden_layers"])
    window = raw.get("sliding_window")
    if window is None or architecture == "LlamaForCausalLM":
        return (None,) * num_layers
    is_mistral = architecture in ("MistralForCausalLM", MIXTRAL)
    if not is_mistral and not raw.get("use_sliding_window", False):
        return (None,) * num_layers
    if is_mistral or architecture == QWEN3_MOE:
        return (int(window),) * num_layers
    first = int(raw.get("max_window_layers", 28))
    kinds = raw.get("layer_types") or [
        "sliding_attention" if i >= first else "full_attention" for i in range(num_layers)
    ]
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
