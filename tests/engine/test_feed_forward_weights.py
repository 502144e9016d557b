"""Experts are read in both layouts that checkpoints have: a tensor for each matrix, or all of a layer's in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tokenworks.contract.errors import CheckpointError
from tokenworks.contract.request import Sampling
from tokenworks.engine.models.feed_forward import DenseFeedForward, SparseFeedForward

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_fused_experts_are_read(
    name: str,
    references: Any,
    make_reference: Any,
    tmp_path: Path,
    run_requests: Callable[..., Any],
    tokens_of: Any,
) -> None:
    reference = references(name)
    reference.model.save_pretrained(tmp_path, save_original_format=False)
    stored = {tensor for path in tmp_path.glob("*.safetensors") for tensor in load_file(path)}
    assert "model.layers.0.mlp.experts.gate_up_proj" in stored
    engine = make_reference(tmp_path, reference.model).engine()
    outputs = run_requests(engine, {"r": (PROMPT, Sampling(16, temperature=0))})
    assert tokens_of(outputs["r"]) == reference.greedy(PROMPT, 16)
    assert engine.model.num_bytes == reference.engine().model.num_bytes


def test_a_layer_is_sparse_or_dense_as_the_config_says(references: Any) -> None:
    engine = references("qwen3-moe-some-layers-sliding").engine()
    kinds = [type(layer.feed_forward) for layer in engine.model.layers]
    assert kinds == [DenseFeedForward, DenseFeedForward, DenseFeedForward, SparseFeedForward]


def test_the_bytes_of_a_step_are_those_of_the_tensors_that_it_reads(references: Any) -> None:
    model = references("qwen3-moe").engine().model
    parameters = {name: p.numel() for name, p in references("qwen3-moe").model.named_parameters()}
    products = sum(n for name, n in parameters.items() if "norm" not in name and "embed_tokens" not in name)
    resting = sum(n for name, n in parameters.items() if ".experts." in name) * 5 // 8
    assert model.num_bytes == 4 * products
    assert model.step_bytes(1) == 4 * (products - resting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_local_experts": 9},
            r"mlp.gate.weight is \[8, 64\], config.json asks for \[9, 64\]|no tensor .*experts.8",
        ),
        ({"moe_intermediate_size": 40}, r"experts.0.gate_proj.weight is \[64, 64\], config.json asks for \[40, 64\]"),
        ({"mlp_only_layers": [0]}, "no tensor model.layers.0.mlp.gate_proj"),
    ],
)
def test_experts_that_do_not_fit_the_config_are_refused(
    changes: dict[str, Any], message: str, references: Any, make_reference: Any, tmp_path: Path
) -> None:
    reference = references("qwen3-moe")
    reference.model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=message):
        make_reference(tmp_path, reference.model).engine()
