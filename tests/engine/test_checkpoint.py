"""What is wrong with a checkpoint directory is said by name, with what to do; what is right is read once and hashed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenworks.contract.config import EngineSettings
from tokenworks.contract.errors import CheckpointError
from tokenworks.engine.build import build_engine
from tokenworks.engine.checkpoint import INDEX_NAME, Checkpoint
from tokenworks.engine.model_config import read_model_config


@pytest.fixture
def directory(references: Any, tmp_path: Path) -> Path:
    """A copy of a sharded checkpoint, to be damaged."""
    return shutil.copytree(references("llama3").directory, tmp_path / "checkpoint")


def first_shard(directory: Path) -> Path:
    return sorted(directory.glob("*.safetensors"))[0]


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(directory: Path) -> None:
    path = first_shard(directory)
    path.write_bytes(path.read_bytes()[:-100])


def resave(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})


def cut_norm(tensors: dict[str, torch.Tensor]) -> None:
    if "model.norm.weight" in tensors:
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()


def make_integer(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.to(torch.int8) for name, tensor in tensors.items()})


def only_pickles(directory: Path) -> None:
    for path in [*directory.glob("*.safetensors"), directory / INDEX_NAME]:
        path.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"x")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing shard": (lambda d: first_shard(d).unlink(), "lacks 1 of"),
    "truncated shard": (truncate, "is cut short or damaged.*Fetch it again"),
    "empty shard": (lambda d: first_shard(d).write_bytes(b""), "is cut short or damaged"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json does not exist"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
    "incomplete config": (lambda d: (d / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}'), "lacks"),
    "wrong kind": (lambda d: edit_config(d, hidden_size="wide"), "value of the wrong kind"),
    "config without end": (lambda d: (d / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
    "no layers": (lambda d: edit_config(d, num_hidden_layers=0), "num_layers comes to 0; it must be at least 1"),
    "no window": (lambda d: edit_config(d, max_position_embeddings=0), "max_context_tokens comes to 0"),
    "heads at odds": (lambda d: edit_config(d, num_key_value_heads=3), "cannot share 3 key/value heads evenly"),
    "odd head": (lambda d: edit_config(d, head_dim=33), "head_dim 33 is odd"),
    "window of some layers": (
        lambda d: edit_config(
            d,
            architectures=["Qwen2ForCausalLM"],
            sliding_window=8,
            use_sliding_window=True,
            layer_types=["sliding_attention"],
        ),
        "layer_types names 1 layers, num_hidden_layers 3",
    ),
    "architecture in words": (lambda d: edit_config(d, architectures="LlamaForCausalLM"), "none named"),
    "unsupported architecture": (
        lambda d: edit_config(d, architectures=["MambaForCausalLM"]),
        "MambaForCausalLM is not supported; supported: LlamaForCausalLM",
    ),
    "quantised": (lambda d: edit_config(d, quantization_config={"quant_method": "awq"}), "quantised.*awq"),
    "other activation": (lambda d: edit_config(d, hidden_act="gelu"), "'gelu' is not supported"),
    "unsupported rope": (lambda d: edit_config(d, rope_parameters={"rope_type": "longrope"}), "'longrope' is not"),
    "rope without its factor": (lambda d: edit_config(d, rope_parameters={"rope_type": "linear"}), "lacks 'factor'"),
    "rope that shrinks to nothing": (
        lambda d: edit_config(d, rope_parameters={"rope_type": "yarn", "factor": 0}),
        "factor is 0.0; it must be above 0",
    ),
    "rope in words": (
        lambda d: edit_config(d, rope_parameters={"rope_type": "yarn", "factor": "much"}),
        "value of the wrong kind",
    ),
    "partial rope": (lambda d: edit_config(d, partial_rotary_factor=0.5), "partial_rotary_factor"),
    "wrong shape": (lambda d: resave(d, cut_norm), r"model.norm.weight is \[63\], config.json asks for \[64\]"),
    "integer weights": (lambda d: resave(d, make_integer), "only floating-point"),
    "index without map": (lambda d: (d / INDEX_NAME).write_text("{}"), "has no weight_map"),
    "index that leaves the directory": (
        lambda d: (d / INDEX_NAME).write_text('{"weight_map": {"a": "../other.safetensors"}}'),
        "lacks 1 of 1",
    ),
    "no weights": (
        lambda d: [path.unlink() for path in [*d.glob("*.safetensors"), d / INDEX_NAME]],
        "has no model.safetensors",
    ),
    "pickled weights": (only_pickles, "convert them to safetensors"),
    "more layers than stored": (lambda d: edit_config(d, num_hidden_layers=4), "no tensor model.layers.3"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_the_reason(kind: str, directory: Path) -> None:
    damage, message = DAMAGE[kind]
    damage(directory)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        build_engine(directory, EngineSettings(kv_bytes=1 << 20), 1, lambda done, total: None)


def fingerprint(directory: Path, dtype: str = "float32") -> str:
    settings = EngineSettings(kv_bytes=1 << 20, dtype=dtype)  # type: ignore[arg-type]
    return build_engine(directory, settings, 1, lambda done, total: None).spec.fingerprint


def test_the_fingerprint_covers_weights_config_and_arithmetic_but_not_the_file_layout(directory: Path) -> None:
    original = fingerprint(directory)
    assert fingerprint(directory, "bfloat16") != original
    edit_config(directory, transformers_version="0", _name_or_path="elsewhere")
    assert fingerprint(directory) == original
    tensors = {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}
    for path in [*directory.glob("*.safetensors"), directory / INDEX_NAME]:
        path.unlink()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(directory) == original
    tensors["model.norm.weight"][3] += 1e-3
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    changed = fingerprint(directory)
    assert changed != original
    edit_config(directory, rms_norm_eps=1e-4)
    assert fingerprint(directory) not in (changed, original)


def test_a_read_maps_the_file_and_copies_nothing(directory: Path) -> None:
    shape = {"model.embed_tokens.weight": (512, 64)}
    first = Checkpoint(directory).read(shape)["model.embed_tokens.weight"]
    assert first.untyped_storage().nbytes() != first.nbytes or not first.untyped_storage().resizable()


def test_both_spellings_of_rope_settings_are_read(directory: Path) -> None:
    new = read_model_config(directory)
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    path.write_text(json.dumps({**raw, "rope_scaling": rope}))
    old = read_model_config(directory)
    assert (old.rope.theta, old.rope.type) == (new.rope.theta, new.rope.type)
    assert old.rope.parameters["factor"] == new.rope.parameters["factor"] == 8.0
