"""Rotary frequencies against the formulas in `transformers`, for real configs of the supported families."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tokenworks.engine.model_config import RopeConfig
from tokenworks.engine.rope import rope_frequencies

LLAMA31: dict[str, Any] = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN: dict[str, Any] = {"factor": 4.0, "original_max_position_embeddings": 32768}
MSCALE: dict[str, Any] = {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0, "beta_fast": 16, "beta_slow": 2}


@pytest.mark.parametrize(
    ("kind", "parameters", "theta", "window"),
    [
        ("linear", {"factor": 2.5}, 10000.0, 4096),
        ("llama3", LLAMA31, 500000.0, 131072),
        ("yarn", YARN, 1000000.0, 131072),
        ("yarn", MSCALE, 1000000.0, 131072),
        ("yarn", {**YARN, "attention_factor": 1.5, "truncate": False}, 1000000.0, 131072),
    ],
)
def test_equals_transformers(kind: str, parameters: dict[str, Any], theta: float, window: int) -> None:
    given = {"rope_type": kind, "rope_theta": theta, **parameters}
    config = transformers.LlamaConfig(
        hidden_size=1024, num_attention_heads=8, max_position_embeddings=window, rope_parameters=given
    )
    expected, expected_scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    ours, scale = rope_frequencies(
        RopeConfig(theta, kind, {"original_max_position_embeddings": window, **given}), 128, window
    )
    torch.testing.assert_close(ours, expected)
    assert scale == pytest.approx(expected_scale)
