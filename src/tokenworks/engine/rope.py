"""Rotary position embedding: the tables, for the plain formula and the scalings that the supported families use.

Frequencies follow "RoFormer" (arXiv 2104.09864); `linear` is position interpolation (arXiv 2306.15595), `llama3` the
wavelength-dependent scaling of Llama 3.1's reference code, `yarn` NTK-by-parts with attention scaling (arXiv
2309.00071). All are functions of the config alone, never of the current length, so that keys may be stored rotated.
Halves are rotated, not pairs: element i turns with element i + head_dim / 2, as in Hugging Face checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenworks.engine.model_config import ModelConfig, RopeConfig


def rope_table(config: ModelConfig, num_positions: int) -> Tensor:
    """cos and sin for positions 0..num_positions-1: float32 [num_positions, 2, head_dim / 2]."""
    frequencies, scale = rope_frequencies(config.rope, config.head_dim, config.max_context_tokens)
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies[None, :]
    return torch.stack((angles.cos() * scale, angles.sin() * scale), dim=1)


def rope_frequencies(rope: RopeConfig, head_dim: int, max_positions: int) -> tuple[Tensor, float]:
    """Angular frequencies, float32 [head_dim / 2], and the factor on cos and sin."""
    plain = 1.0 / (rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    if rope.type == "linear":
        return plain / float(rope.parameters["factor"]), 1.0
    if rope.type == "llama3":
        return _llama3(plain, rope.parameters), 1.0
    if rope.type == "yarn":
        return _yarn(plain, rope, head_dim, max_positions)
    return plain, 1.0


def _llama3(plain: Tensor, parameters: Mapping[str, Any]) -> Tensor:
    factor = float(parameters["factor"])
    low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
    original = float(parameters["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / plain
    smooth = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - smooth) * plain / factor + smooth * plain


def _yarn(plain: Tensor, rope: RopeConfig, head_dim: int, max_positions: int) -> tuple[Tensor, float]:
    given = rope.parameters
    original = float(given["original_max_position_embeddings"])
    factor = float(given.get("factor") or max_positions / original)

    def dimension_of(rotations: float) -> float:
        """The dimension that turns `rotations` times within the original window."""
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = dimension_of(float(given.get("beta_fast") or 32))
    high = dimension_of(float(given.get("beta_slow") or 1))
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    return plain / factor * ramp + plain * (1 - ramp), _yarn_attention_factor(given, factor)


def _yarn_attention_factor(given: Mapping[str, Any], factor: float) -> float:
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    scale, all_dims = given.get("mscale"), given.get("mscale_all_dim")
    if scale and all_dims:
        return _mscale(factor, float(scale)) / _mscale(factor, float(all_dims))
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
