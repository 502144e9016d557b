"""How a checkpoint's weights were quantised before it got here: the `quantization_config` of its `config.json`.

Two families are read, because their integers and scales can be taken over as they are: compressed-tensors
(`pack-quantized` and `int-quantized`) and GPTQ, symmetric, 4 or 8 bits. All else is refused by name: a format that
would have to be rounded again is better made from the original weights. torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tokenworks.contract.errors import CheckpointError

INSTEAD: Final = (
    "use the original weights with --quantize int8 or int4, or a symmetric compressed-tensors or GPTQ checkpoint"
)


class StoredQuantization(msgspec.Struct, frozen=True):
    """The format of the integers; bits and groups are plain from each tensor's shape."""

    format: Literal["pack-quantized", "int-quantized", "gptq"]
    zero_offset: int = 0  # GPTQ: what was subtracted from zero points before they were stored

    @property
    def pieces(self) -> tuple[str, ...]:
        """Suffixes of the tensors that a quantised matrix is stored as."""
        return {
            "pack-quantized": ("weight_packed", "weight_scale", "weight_shape"),
            "int-quantized": ("weight", "weight_scale"),
            "gptq": ("qweight", "qzeros", "scales", "g_idx"),
        }[self.format]


def read_stored_quantization(raw: Mapping[str, Any], path: Path) -> StoredQuantization | None:
    """What `config.json` (`raw`, at `path`) says; None for float weights; CheckpointError for what is not read."""
    config = raw.get("quantization_config")
    if not config:
        return None
    method = config.get("quant_method", "unnamed")
    if method == "gptq":
        return _gptq(config, path)
    if method == "compressed-tensors":
        return _compressed_tensors(config, path)
    raise _refusal(path, f"quantised with {method}")


def _refusal(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: a checkpoint {what} is not supported; {INSTEAD}")


def _gptq(config: Mapping[str, Any], path: Path) -> StoredQuantization:
    if config.get("bits") not in (4, 8):
        raise _refusal(path, f"quantised with gptq in {config.get('bits')} bits")
    if not config.get("sym", True):
        raise _refusal(path, "quantised with asymmetric gptq (sym: false)")
    layout = config.get("checkpoint_format") or "gptq"
    if layout not in ("gptq", "gptq_v2"):
        raise _refusal(path, f"quantised with gptq in the layout {layout}")
    return StoredQuantization("gptq", zero_offset=1 if layout == "gptq" else 0)


def _compressed_tensors(config: Mapping[str, Any], path: Path) -> StoredQuantization:
    if config.get("kv_cache_scheme"):
        raise _refusal(path, "with a quantised KV cache (kv_cache_scheme)")
    groups = list((config.get("config_groups") or {}).values())
    formats = {group.get("format") or config.get("format") for group in groups} or {config.get("format")}
    if len(formats) > 1:
        raise _refusal(path, f"in several compressed-tensors formats ({', '.join(sorted(map(str, formats)))})")
    for group in groups:
        _check_group(group, path)
    match formats.pop():
        case "pack-quantized":
            return StoredQuantization("pack-quantized")
        case "int-quantized":
            return StoredQuantization("int-quantized")
        case other:
            raise _refusal(path, f"in the compressed-tensors format {other}")


def _check_group(group: Mapping[str, Any], path: Path) -> None:
    weights = group.get("weights") or {}
    kind, bits, strategy = weights.get("type"), weights.get("num_bits"), weights.get("strategy")
    if kind != "int" or bits not in (4, 8):
        raise _refusal(path, f"with weights of type {kind}, {bits} bits")
    if not weights.get("symmetric", True):
        raise _refusal(path, "with asymmetric weights (symmetric: false)")
    if strategy not in ("group", "channel"):
        raise _refusal(path, f"with one scale per {strategy}")
    if weights.get("actorder") in ("group", "dynamic", True):
        raise _refusal(path, f"with columns in act-order (actorder: {weights['actorder']})")
    activations = group.get("input_activations")
    if activations and (activations.get("type") != "int" or activations.get("num_bits") != 8):
        raise _refusal(path, f"with {activations.get('type')}{activations.get('num_bits')} activations")
    if activations and not activations.get("dynamic"):
        raise _refusal(path, "with activation scales fixed beforehand (dynamic: false)")
