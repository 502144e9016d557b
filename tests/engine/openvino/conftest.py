"""The same checkpoints on OpenVINO: skipped where it is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.engine.build import build_engine
from tokenworks.engine.engine import Engine

BLOCK_TOKENS = 32
DENSE = [
    "llama3",
    "llama-biases-linear-rope",
    "qwen2",
    "qwen2-sliding",
    "qwen3-tied",
    "qwen3-yarn",
    "mistral-sliding",
]


def nothing(done: int, total: int) -> None:
    """Progress that nobody watches."""


def settings_for(reference: Any, num_blocks: int, **given: Any) -> EngineSettings:
    """float32, so many blocks of 32 tokens, 64 tokens in a step."""
    config = reference.model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    defaults = {"dtype": "float32", "max_running": 16, "max_step_tokens": 64, "block_tokens": BLOCK_TOKENS}
    settings = EngineSettings(**{**defaults, **given})
    return EngineSettings(**{**defaults, **given, "kv_bytes": num_blocks * settings.block_tokens * token_bytes})


@pytest.fixture(scope="session")
def openvino_engine() -> Callable[..., Engine]:
    """An engine on OpenVINO over a reference's checkpoint."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'tokenworks[openvino]'")
    from tokenworks.engine.openvino.build import build_openvino_engine

    def make(reference: Any, num_blocks: int = 60, exchange: Any = "exact", **given: Any) -> Engine:
        settings = settings_for(reference, num_blocks, **given)
        return build_openvino_engine(reference.directory, settings, KVSettings(exchange=exchange), "CPU", 1, nothing)

    return make


@pytest.fixture(scope="session")
def own_engine() -> Callable[..., Engine]:
    """Our own engine over the same, with blocks of the same size."""

    def make(reference: Any, num_blocks: int = 60, exchange: Any = "exact", **given: Any) -> Engine:
        settings = settings_for(reference, num_blocks, **given)
        return build_engine(reference.directory, settings, 1, nothing, KVSettings(exchange=exchange))

    return make


@pytest.fixture(scope="session", params=DENSE)
def dense(request: pytest.FixtureRequest, references: Any) -> Any:
    """Each checkpoint that OpenVINO runs."""
    return references(request.param)
