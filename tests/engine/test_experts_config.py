"""What a config says of experts is what `transformers` makes of it; what it says wrongly is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tokenworks.contract.errors import CheckpointError
from tokenworks.engine.model_config import ModelConfig, read_model_config

SHAPE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
QWEN3_MOE: dict[str, Any] = {
    **SHAPE,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
MIXTRAL: dict[str, Any] = {
    **SHAPE,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def read(folder: Path, raw: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(raw))
    return read_model_config(folder)


def test_both_spellings_of_the_number_of_experts_are_read(tmp_path: Path) -> None:
    new = {key: value for key, value in QWEN3_MOE.items() if key != "num_experts"}
    assert read(tmp_path, {**new, "num_local_experts": 8}) == read(tmp_path, QWEN3_MOE)
    experts = read(tmp_path, QWEN3_MOE).experts
    assert experts is not None
    assert (experts.num_experts, experts.num_per_token, experts.intermediate_size) == (8, 2, 24)


@pytest.mark.parametrize("given", [True, False, None])
def test_qwen3_moe_norms_a_tokens_weights_where_the_config_says_so(tmp_path: Path, given: bool | None) -> None:
    raw = QWEN3_MOE if given is None else {**QWEN3_MOE, "norm_topk_prob": given}
    experts = read(tmp_path, raw).experts
    assert experts is not None
    assert experts.is_normed is transformers.Qwen3MoeConfig(**raw).norm_topk_prob is bool(given)


def test_mixtral_norms_always_and_its_experts_have_the_models_width(tmp_path: Path) -> None:
    experts = read(tmp_path, MIXTRAL).experts
    assert experts is not None
    assert (experts.is_normed, experts.intermediate_size, experts.is_sparse) == (True, 40, (True,) * 6)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("dense", [[], [1], [0, 3, 5], [0, 1, 2, 3, 4, 5], None])
def test_the_sparse_layers_are_those_of_transformers(tmp_path: Path, step: int, dense: list[int] | None) -> None:
    raw = {**QWEN3_MOE, "decoder_sparse_step": step, "mlp_only_layers": dense}
    config = read(tmp_path, raw)
    with torch.device("meta"):
        oracle = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**raw))
    expected = [hasattr(layer.mlp, "experts") for layer in oracle.model.layers]
    assert [config.experts_of(index) is not None for index in range(6)] == expected
    assert (config.experts is not None) == any(expected)


def test_a_qwen3_moe_without_experts_is_dense(tmp_path: Path) -> None:
    assert read(tmp_path, {**QWEN3_MOE, "num_experts": 0}).experts is None


def test_a_silent_mixtral_config_takes_that_familys_defaults(tmp_path: Path) -> None:
    config, oracle = read(tmp_path, MIXTRAL), transformers.MixtralConfig(**MIXTRAL)
    assert config.rope.theta == oracle.rope_parameters["rope_theta"] == 1e6
    assert config.rms_norm_eps == oracle.rms_norm_eps == 1e-5
    assert read(tmp_path, {**MIXTRAL, "rope_parameters": {"rope_theta": 5e5}}).rope.theta == 5e5


def test_windows_slide_in_every_layer_or_in_none(tmp_path: Path) -> None:
    window = {"sliding_window": 16}
    assert read(tmp_path, {**MIXTRAL, **window}).windows == (16,) * 6
    assert read(tmp_path, {**QWEN3_MOE, **window}).windows == (None,) * 6
    sliding = {**QWEN3_MOE, **window, "use_sliding_window": True, "max_window_layers": 3}
    assert read(tmp_path, sliding).windows == (16,) * 6


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "more experts a token than there are": ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9.*1 to the 8 experts"),
    "no expert a token": ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
    "unknown number of experts": ({"num_experts": None}, "num_experts"),
    "a step of nothing": ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0; it must be at least 1"),
    "biases in experts": ({"mlp_bias": True}, "Qwen3MoeForCausalLM with mlp_bias is not supported"),
    "experts in words": ({"num_experts": "many"}, "value of the wrong kind"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistaken_config_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    changes, message = MISTAKES[kind]
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, {**QWEN3_MOE, **changes})


@pytest.mark.parametrize("key", ["num_experts", "num_experts_per_tok", "moe_intermediate_size"])
def test_a_missing_figure_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=f"lacks '{key}'"):
        read(tmp_path, {name: value for name, value in QWEN3_MOE.items() if name != key})
