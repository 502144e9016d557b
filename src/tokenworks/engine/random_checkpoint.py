"""Writes checkpoints of real shapes with random weights, for measuring: speed depends on shapes, not on values.

The files are what a Hugging Face checkpoint has: config.json, sharded or single safetensors, a byte-level BPE tokenizer
trained on the Python standard library, a chat template. Layers are written one file each, so that memory stays small.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.engine.checkpoint import INDEX_NAME
from tokenworks.engine.model_config import ModelConfig, read_model_config
from tokenworks.engine.models.decoder import layer_shapes

SPECIAL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER_VOCAB: Final = 32_000

_COMMON: Final[dict[str, Any]] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "torch_dtype": "bfloat16",
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_LLAMA3_ROPE: Final = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_QWEN3_SMALL: Final[dict[str, Any]] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
_QWEN3_MOE: Final[dict[str, Any]] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 40_960,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
_QWEN3_MOE_SMALL: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "tie_word_embeddings": True,
}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "qwen3-0.6b": _QWEN3_SMALL,
    "qwen3-1.7b": {**_QWEN3_SMALL, "hidden_size": 2048, "intermediate_size": 6144},
    "qwen3-moe-1.5b": {**_QWEN3_MOE, **_QWEN3_MOE_SMALL},
    "qwen3-30b-a3b": _QWEN3_MOE,
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131_072,
        "rope_theta": 500_000.0,
        "rope_scaling": _LLAMA3_ROPE,
        "tie_word_embeddings": True,
    },
    "mistral-7b": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "sliding_window": 4096,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    },
    "mixtral-8x7b": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 32_768,
        "sliding_window": None,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
"""Hugging Face configs of well-known models, by the name that `--like` takes; qwen3-moe-1.5b has the 30B's layers, but
fewer and smaller ones, so that a mixture of experts can be measured where 60 GB do not fit."""


def write_random_checkpoint(
    out: Path, like: str, seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write a checkpoint of the shape `like` to the new directory `out`; raises ConfigError or StartupError."""
    if like not in SHAPES:
        raise ConfigError(f"unknown shape {like!r}; known: {', '.join(SHAPES)}")
    if out.exists() and any(out.iterdir()):
        raise StartupError(f"{out} is not empty: name a new directory")
    out.mkdir(parents=True, exist_ok=True)
    config = {**_COMMON, **SHAPES[like]}
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", {"eos_token_id": 2, "bos_token_id": 0})
    write_tokenizer(out, min(TOKENIZER_VOCAB, config["vocab_size"]))
    write_random_weights(out, seed, progress)


def write_random_weights(out: Path, seed: int, progress: Callable[[int, int], None]) -> None:
    """Weights for the config.json in `out`: normal, scaled as at the start of a training run; norms are 1."""
    config = read_model_config(out)
    generator = torch.Generator().manual_seed(seed)
    groups = list(_shape_groups(config))
    weight_map: dict[str, str] = {}
    total = 0
    for index, shapes in enumerate(groups):
        file = f"model-{index + 1:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: _random(name, shape, config, generator) for name, shape in shapes.items()}
        save_file(tensors, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        progress(index + 1, len(groups))
    _write_json(out / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shape_groups(config: ModelConfig) -> Iterator[dict[str, tuple[int, ...]]]:
    table = (config.vocab_size, config.hidden_size)
    yield {"model.embed_tokens.weight": table}
    for index in range(config.num_layers):
        yield {f"model.layers.{index}.{name}": shape for name, shape in layer_shapes(config, index).items()}
    head = {} if config.is_tied else {"lm_head.weight": table}
    yield {"model.norm.weight": table[1:], **head}


def _random(name: str, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> Tensor:
    dtype = getattr(torch, config.dtype)
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=dtype)
    return torch.randn(shape, generator=generator).mul_(0.02).to(dtype)


def write_tokenizer(out: Path, vocab_size: int) -> None:
    """A byte-level BPE tokenizer that round-trips any text, and a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    files = sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py")))[:200]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(files, trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    names = {"eos_token": SPECIAL_TOKENS[2], "pad_token": SPECIAL_TOKENS[0], "chat_template": CHAT_TEMPLATE}
    _write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
