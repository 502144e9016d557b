"""Small random checkpoints of every architecture, saved by `transformers`, the oracle for their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import SequenceOutput
from tokenworks.engine.build import build_engine
from tokenworks.engine.engine import Engine
from tokenworks.engine.kv_cache import KVCache

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
EXPERTS: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "head_dim": 32,
}

WIDE_SHAPE = {**SHAPE, "hidden_size": 128, "intermediate_size": 192}
"""Heads of 32 in every architecture: the least that the native library computes."""

CONFIGS: dict[str, Callable[[dict[str, Any]], transformers.PretrainedConfig]] = {
    "llama3": lambda shape: transformers.LlamaConfig(**shape, rope_parameters=LLAMA3_ROPE),
    "llama-biases-linear-rope": lambda shape: transformers.LlamaConfig(
        **shape, attention_bias=True, mlp_bias=True, rope_parameters=LINEAR_ROPE
    ),
    "qwen2": lambda shape: transformers.Qwen2Config(**shape),
    "qwen2-sliding": lambda shape: transformers.Qwen2Config(
        **shape, use_sliding_window=True, sliding_window=16, max_window_layers=1
    ),
    "qwen3-tied": lambda shape: transformers.Qwen3Config(**shape, head_dim=32, tie_word_embeddings=True),
    "qwen3-yarn": lambda shape: transformers.Qwen3Config(**shape, head_dim=32, rope_parameters=YARN_ROPE),
    "mistral-sliding": lambda shape: transformers.MistralConfig(**shape, sliding_window=16),
    "qwen3-moe": lambda shape: transformers.Qwen3MoeConfig(**shape, **EXPERTS, norm_topk_prob=True),
    "qwen3-moe-unnormed-biases": lambda shape: transformers.Qwen3MoeConfig(
        **shape, **EXPERTS, norm_topk_prob=False, attention_bias=True
    ),
    "qwen3-moe-some-layers-sliding": lambda shape: transformers.Qwen3MoeConfig(
        **{**shape, "num_hidden_layers": 4},
        **EXPERTS,
        mlp_only_layers=[1],
        decoder_sparse_step=2,
        use_sliding_window=True,
        sliding_window=16,
    ),
    "mixtral": lambda shape: transformers.MixtralConfig(**shape, num_local_experts=4, num_experts_per_tok=2),
    "mixtral-sliding": lambda shape: transformers.MixtralConfig(
        **shape, num_local_experts=5, num_experts_per_tok=3, sliding_window=16
    ),
}


@dataclass(frozen=True)
class Reference:
    """A checkpoint directory and the model that wrote it."""

    directory: Path
    model: transformers.PreTrainedModel

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """What `transformers` continues `prompt` with."""
        with torch.inference_mode():
            ids = self.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return [int(token) for token in ids[0, len(prompt) :]]

    def engine(self, num_blocks: int = 200, max_step_tokens: int = 64, **settings: Any) -> Engine:
        """Our engine on the same checkpoint, float32, blocks of 8 tokens; bf16 KV fits twice `num_blocks`."""
        config = self.model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv_dtype = "int8" if settings.get("kv_dtype") == "int8" else "float32"
        spec = KVSpec("", config.num_hidden_layers, config.num_key_value_heads, head_dim, 8, kv_dtype)
        exchange = settings.pop("exchange", "exact")
        settings = {"dtype": "float32", "max_running": 16, **settings}
        engine_settings = EngineSettings(
            block_tokens=8, kv_bytes=num_blocks * 8 * spec.bytes_per_token, max_step_tokens=max_step_tokens, **settings
        )
        kv = KVSettings(exchange=exchange)
        return build_engine(self.directory, engine_settings, 1, lambda done, total: None, kv)


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reference]:
    """The reference of a name in CONFIGS, with heads of 32 where it is to be wide; each is made once."""
    made: dict[tuple[str, bool], Reference] = {}

    def get(name: str, is_wide: bool = False) -> Reference:
        if (name, is_wide) not in made:
            made[name, is_wide] = _make(name, WIDE_SHAPE if is_wide else SHAPE, tmp_path_factory.mktemp(name))
        return made[name, is_wide]

    return get


def _make(name: str, shape: dict[str, Any], directory: Path) -> Reference:
    torch.manual_seed(len(name))
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](shape), dtype=torch.float32).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory, max_shard_size="100KB")
    return Reference(directory, model)


def run(engine: Engine, requests: dict[str, tuple[list[int], Sampling]]) -> dict[str, list[SequenceOutput]]:
    """Add all requests at once and step until all have ended."""
    outputs: dict[str, list[SequenceOutput]] = {request_id: [] for request_id in requests}
    for request_id, (prompt, sampling) in requests.items():
        engine.add(Request(request_id, "model", prompt, sampling))
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    return outputs


def tokens(outputs: list[SequenceOutput]) -> list[int]:
    """All tokens of one request."""
    return [token for output in outputs for token in output.token_ids]


@pytest.fixture(scope="session")
def run_requests() -> Callable[..., dict[str, list[SequenceOutput]]]:
    return run


@pytest.fixture(scope="session")
def tokens_of() -> Callable[[list[SequenceOutput]], list[int]]:
    return tokens


@pytest.fixture(scope="session")
def make_reference() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def random_cache() -> Callable[[KVSpec, int], KVCache]:
    """A cache whose every slot holds something: standard normal, or any codes with scales of the like."""

    def make(spec: KVSpec, num_blocks: int) -> KVCache:
        cache = KVCache(spec, num_blocks)
        if cache.scales is None:
            cache.data.copy_(torch.randn(cache.data.shape))
        else:
            cache.data.copy_(torch.randint(-127, 128, cache.data.shape))
            cache.scales.copy_(torch.rand(cache.scales.shape) * 4 / 127)  # unlike each other, so that none fits another
        return cache

    return make
