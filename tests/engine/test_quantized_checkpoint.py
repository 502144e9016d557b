"""Checkpoints that were quantised elsewhere: written here as the formats' specifications say, number by number.

The oracle is `transformers` in float32 with the dequantised weights. What is left between the two is the rounding of
rows to int8: DRIFT is the relative error (root mean square) of the logits that it may cause in these small random
models, which attend sharply and so amplify. With the same rounding put before the oracle's products, only TIES is left:
float32 rounding may push a number that lies between two steps to the other one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenworks.contract.config import EngineSettings
from tokenworks.contract.errors import CheckpointError
from tokenworks.contract.request import Sampling
from tokenworks.engine.build import build_engine
from tokenworks.engine.engine import Engine
from tokenworks.engine.linear import Linear
from tokenworks.engine.model_config import read_model_config
from tokenworks.engine.quantize import quantize
from tokenworks.engine.scoring import logits_after_each

DRIFT = 0.1
TIES = 0.02
TOKENS = [int(token) for token in torch.randint(0, 512, (60,), generator=torch.Generator().manual_seed(5))]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Integers:
    """A matrix as a quantiser elsewhere left it: values [N, K] and one scale per row and group."""

    values: np.ndarray
    scales: torch.Tensor  # [N, groups]
    bits: int

    def dequantized(self) -> torch.Tensor:
        width = self.values.shape[1] // self.scales.shape[1]
        return torch.from_numpy(self.values).float() * self.scales.float().repeat_interleave(width, dim=1)


def to_integers(weight: torch.Tensor, bits: int, group: int | None, dtype: torch.dtype) -> Integers:
    """Plain rounding; `group` None is one scale per row."""
    groups = weight.view(weight.shape[0], -1, group or weight.shape[1])
    scales = (groups.abs().amax(-1) / (2 ** (bits - 1) - 1)).to(dtype)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = (groups / scales.float()[:, :, None]).round().clamp(low, high).flatten(1)
    values[0, 0] = low  # the lowest value, which only stored checkpoints use at eight bits
    return Integers(values.to(torch.int32).numpy(), scales, bits)


def to_words(numbers: np.ndarray, bits: int) -> torch.Tensor:
    """Unsigned numbers [rows, columns] as int32 words, lowest bits first; one number after another."""
    per_word = 32 // bits
    words = np.zeros((numbers.shape[0], -(-numbers.shape[1] // per_word)), dtype=np.uint32)
    for row in range(numbers.shape[0]):
        for column in range(numbers.shape[1]):
            words[row, column // per_word] |= np.uint32(numbers[row, column]) << np.uint32(bits * (column % per_word))
    return torch.from_numpy(words.view(np.int32))


def pack_quantized(prefix: str, integers: Integers) -> Tensors:
    offset = 2 ** (integers.bits - 1)
    return {
        f"{prefix}.weight_packed": to_words(integers.values + offset, integers.bits),
        f"{prefix}.weight_scale": integers.scales,
        f"{prefix}.weight_shape": torch.tensor(integers.values.shape),
    }


def int_quantized(prefix: str, integers: Integers) -> Tensors:
    values = torch.from_numpy(integers.values).to(torch.int8)
    return {f"{prefix}.weight": values, f"{prefix}.weight_scale": integers.scales}


def gptq(stored_zero_offset: int) -> Callable[[str, Integers], Tensors]:
    def write(prefix: str, integers: Integers) -> Tensors:
        rows, columns = integers.values.shape
        groups = integers.scales.shape[1]
        zero = 2 ** (integers.bits - 1)
        zeros = np.full((groups, rows), zero - stored_zero_offset)
        return {
            f"{prefix}.qweight": to_words(integers.values + zero, integers.bits).T.contiguous(),
            f"{prefix}.qzeros": to_words(zeros, integers.bits),
            f"{prefix}.scales": integers.scales.T.contiguous(),
            f"{prefix}.g_idx": torch.tensor([column * groups // columns for column in range(columns)]).int(),
        }

    return write


def compressed_tensors_config(kind: str, bits: int, group: int | None, **activations: Any) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "group" if group else "channel",
        "group_size": group, "dynamic": False, "actorder": None, "observer": "minmax",
    }  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations or None}}
    return {
        "quant_method": "compressed-tensors", "format": kind, "config_groups": groups, "ignore": ["lm_head"],
        "quantization_status": "compressed", "kv_cache_scheme": None,
    }  # fmt: skip


def gptq_config(bits: int, group: int | None, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "sym": True, "desc_act": False, **more}


DYNAMIC = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
FORMATS: dict[str, tuple[dict[str, Any], Callable[[str, Integers], Tensors], int, int | None]] = {
    "W4A16 groups": (compressed_tensors_config("pack-quantized", 4, 32), pack_quantized, 4, 32),
    "W4A16 wide groups": (compressed_tensors_config("pack-quantized", 4, 64), pack_quantized, 4, 64),
    "W4A16 channels": (compressed_tensors_config("pack-quantized", 4, None), pack_quantized, 4, None),
    "W8A16 channels": (compressed_tensors_config("pack-quantized", 8, None), pack_quantized, 8, None),
    "W8A16 groups": (compressed_tensors_config("pack-quantized", 8, 32), pack_quantized, 8, 32),
    "W8A8": (compressed_tensors_config("int-quantized", 8, None, **DYNAMIC), int_quantized, 8, None),
    "GPTQ 4": (gptq_config(4, 64), gptq(1), 4, 64),
    "GPTQ 4 v2": (gptq_config(4, 32, checkpoint_format="gptq_v2"), gptq(0), 4, 32),
    "GPTQ 4, one group": (gptq_config(4, None), gptq(1), 4, None),
    "GPTQ 8": (gptq_config(8, 64), gptq(1), 8, 64),
}


@pytest.fixture
def make(references: Any, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Write a format's checkpoint of a model; with the model in float32 whose weights are what was written."""

    def write(kind: str, model_name: str = "llama3") -> tuple[Path, Any]:
        config, to_tensors, bits, group = FORMATS[kind]
        reference = references(model_name)
        model = copy.deepcopy(reference.model)
        tensors: Tensors = {}
        for name, module in model.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                dtype = torch.float16 if config["quant_method"] == "gptq" else torch.bfloat16
                integers = to_integers(module.weight.detach(), bits, group, dtype)
                tensors |= to_tensors(f"model.{name}", integers)
                module.weight.data = integers.dequantized()
        floats = {name: t.contiguous() for name, t in model.state_dict().items()}
        left = {n: t for n, t in floats.items() if not (n.endswith("proj.weight") or n in tensors)}
        save_file(tensors | left, tmp_path / "model.safetensors", metadata={"format": "pt"})
        raw = json.loads((reference.directory / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**raw, "quantization_config": config}))
        return tmp_path, model

    return write


def relative_error(engine: Engine, model: Any) -> float:
    """Of our logits against the model's."""
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0].float()
    found = logits_after_each(engine.model, engine.spec, TOKENS)
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def round_inputs(model: Any, group: int | None, bits: int) -> None:
    """From now on each of the layers' products rounds its rows as ours does."""
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            size = next(s for s in ((128, 64, 32) if bits == 8 else (32,)) if (group or module.in_features) % s == 0)
            module.register_forward_pre_hook(lambda _, inputs, size=size: (rounded(inputs[0], size),))


def rounded(x: torch.Tensor, size: int) -> torch.Tensor:
    groups = x.unflatten(-1, (-1, size))
    scales = groups.abs().amax(-1, keepdim=True) / 127
    return ((groups / scales).round() * scales).flatten(-2)


def load(directory: Path, **settings: Any) -> Engine:
    engine_settings = EngineSettings(dtype="float32", kv_bytes=1 << 20, block_tokens=8, **settings)
    return build_engine(directory, engine_settings, 1, lambda done, total: None)


@pytest.mark.parametrize("kind", FORMATS)
def test_logits_are_those_of_the_dequantised_model(kind: str, make: Any) -> None:
    directory, model = make(kind)
    engine = load(directory)
    assert relative_error(engine, model) < DRIFT
    round_inputs(model, FORMATS[kind][3], FORMATS[kind][2])
    assert relative_error(engine, model) < TIES


@pytest.mark.parametrize("kind", FORMATS)
def test_integers_and_scales_are_taken_over_exactly(kind: str, make: Any) -> None:
    directory, model = make(kind)
    engine = load(directory)
    for layer, reference in zip(engine.model.layers, model.model.layers, strict=True):
        assert not isinstance(layer.feed_forward.down, Linear)
        assert layer.feed_forward.down.bits == FORMATS[kind][2]
        assert torch.equal(layer.feed_forward.down.weight.dequantized(), reference.mlp.down_proj.weight)
        both = torch.cat([reference.mlp.gate_proj.weight, reference.mlp.up_proj.weight])
        assert torch.equal(layer.feed_forward.gate_up.weight.dequantized(), both)
    assert isinstance(engine.model.head, Linear)  # as the config's `ignore` has it


@pytest.mark.parametrize("kind", ["W4A16 groups", "GPTQ 4"])
def test_biases_are_added(kind: str, make: Any) -> None:
    directory, model = make(kind, "llama-biases-linear-rope")
    assert relative_error(load(directory), model) < DRIFT


def test_the_fingerprint_covers_integers_and_scales(make: Any) -> None:
    directory, _ = make("W4A16 groups")
    prints = [load(directory).spec.fingerprint, load(directory).spec.fingerprint]
    path = directory / "model.safetensors"
    for piece in ("weight_packed", "weight_scale"):
        tensors = load_file(path)
        tensors[f"model.layers.1.mlp.up_proj.{piece}"][3, 0] += 1
        save_file(tensors, path, metadata={"format": "pt"})
        prints.append(load(directory).spec.fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_layer_that_was_left_out_stays_float(make: Any) -> None:
    directory, model = make("W8A8")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for part in ("q", "gate"):  # one of three that are computed together, one of two
        name = f"model.layers.0.{'self_attn' if part == 'q' else 'mlp'}.{part}_proj"
        del tensors[f"{name}.weight_scale"]
        tensors[f"{name}.weight"] = model.get_submodule(name).weight.detach()
    save_file(tensors, path, metadata={"format": "pt"})
    engine = load(directory)
    assert [isinstance(layer.qkv, Linear) for layer in engine.model.layers] == [True, False, False]
    assert relative_error(engine, model) < DRIFT


def edit(tensors: Tensors, suffix: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    name = next(name for name in sorted(tensors) if name.endswith(suffix))
    tensors[name] = change(tensors[name]).contiguous()


def with_column_order(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.up_proj.weight_g_idx"] = torch.arange(64, dtype=torch.int32).flip(0) // 32


BROKEN: dict[str, tuple[str, Callable[[Tensors], None], str]] = {
    "act-order": ("GPTQ 4", lambda t: edit(t, "g_idx", lambda x: x.flip(0)), "act-order; use .* desc_act: false"),
    "act-order in words": ("W4A16 groups", with_column_order, "act-order; use the original weights"),
    "asymmetric": ("GPTQ 4", lambda t: edit(t, "qzeros", lambda x: x + 1), "asymmetric zero points"),
    "zeros of the other version": ("GPTQ 4 v2", lambda t: edit(t, "qzeros", lambda x: x - 0x11111111), "asymmetric"),
    "odd words": ("GPTQ 4", lambda t: edit(t, "qweight", lambda x: x[:5]), "neither 4 nor 8 bits"),
    "wrong rows": ("GPTQ 4", lambda t: edit(t, "qweight", lambda x: x[:, :8]), "config.json asks for"),
    "wrong shape": ("W4A16 groups", lambda t: edit(t, "weight_shape", lambda x: x * 2), "weight_shape is"),
    "odd groups": ("W4A16 groups", lambda t: edit(t, "weight_scale", lambda x: x[:, :0]), "scales for"),
    "too few scales": ("W8A8", lambda t: edit(t, "weight_scale", lambda x: x[:7]), "shape"),
    "missing piece": ("W4A16 groups", lambda t: t.pop("model.layers.1.mlp.up_proj.weight_shape"), "no tensor"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_does_not_fit_together_is_refused(damage: str, make: Any) -> None:
    kind, change, message = BROKEN[damage]
    directory, _ = make(kind)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        load(directory)


def changed(config: dict[str, Any], **weights: Any) -> dict[str, Any]:
    """A compressed-tensors config with other weights."""
    made = copy.deepcopy(config)
    made["config_groups"]["group_0"]["weights"].update(weights)
    return made


PACKED = compressed_tensors_config("pack-quantized", 4, 32)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "awq": ({"quant_method": "awq", "bits": 4}, "awq"),
    "fp8": ({"quant_method": "fp8"}, "fp8"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "unnamed": ({"bits": 4}, "unnamed"),
    "gptq in 3 bits": (gptq_config(3, 32), "3 bits"),
    "asymmetric gptq": (gptq_config(4, 32, sym=False), "asymmetric gptq"),
    "other gptq layout": (gptq_config(4, 32, checkpoint_format="marlin"), "layout marlin"),
    "float-quantized": (changed(PACKED, type="float", num_bits=8), "type float, 8 bits"),
    "asymmetric": (changed(PACKED, symmetric=False), "asymmetric weights"),
    "act-order": (changed(PACKED, actorder="group"), "act-order"),
    "one scale": (changed(PACKED, strategy="tensor"), "one scale per tensor"),
    "another format": ({**PACKED, "format": "nvfp4-pack-quantized"}, "nvfp4"),
    "quantised cache": ({**PACKED, "kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
    "fp8 rows": (compressed_tensors_config("int-quantized", 8, None, type="float", num_bits=8), "float8 activations"),
    "fixed rows": (compressed_tensors_config("int-quantized", 8, None, **{**DYNAMIC, "dynamic": False}), "dynamic"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_format_that_cannot_be_taken_over_is_refused_by_name(kind: str, make: Any) -> None:
    config, message = REFUSED[kind]
    directory, _ = make("W4A16 groups")
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "quantization_config": config}))
    with pytest.raises(CheckpointError, match=f"{message}.*--quantize int8"):
        read_model_config(directory)


def test_two_formats_in_one_checkpoint_are_refused(make: Any) -> None:
    config = copy.deepcopy(PACKED)
    group = config["config_groups"]["group_0"]
    config["config_groups"] = {"a": {**group, "format": "pack-quantized"}, "b": {**group, "format": "int-quantized"}}
    directory, _ = make("W4A16 groups")
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, "quantization_config": config}))
    with pytest.raises(CheckpointError, match="several compressed-tensors formats"):
        read_model_config(directory)


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3-tied"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_model_rounded_at_load_is_its_dequantised_self(
    kind: str, name: str, references: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reference, bits = references(name), int(kind[3:])
    model = copy.deepcopy(reference.model)
    for module in model.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = quantize(module.weight.detach(), bits).dequantized()
    head = quantize(model.lm_head.weight.detach(), 8).dequantized()
    model.lm_head.weight = torch.nn.Parameter(head)  # no longer tied to the table that tokens are looked up in
    engine = load(reference.directory, quantize=kind)
    assert relative_error(engine, model) < DRIFT
    round_inputs(model, None, bits)
    model.lm_head.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0], 64),))
    assert relative_error(engine, model) < TIES


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_decoding_follows_the_logits_of_the_whole_text(
    kind: str, references: Any, run_requests: Any, tokens_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = references("qwen3-tied").engine(quantize=kind, max_step_tokens=64)
    prompts = {f"{size}": TOKENS[:size] for size in (1, 9, 30, 60)}
    greedy = Sampling(max_tokens=20, temperature=0)
    outputs = run_requests(engine, {name: (prompt, greedy) for name, prompt in prompts.items()})
    for name, prompt in prompts.items():
        answer = tokens_of(outputs[name])
        logits = logits_after_each(engine.model, engine.spec, prompt + answer)[len(prompt) - 1 : -1]
        chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
        assert (logits.amax(-1) - chosen <= DRIFT * logits.std(-1)).all()
