"""Writes a Hugging Face checkpoint as GGUF: Llama, Qwen2, Qwen3 and Qwen3-MoE, in bf16, q8_0 or q4_0.

    python -m benchmarks.engine.peers.to_gguf CHECKPOINT OUT.gguf bf16|q8_0|q4_0

For speed only: every matrix, the embedding included, gets the one type (llama.cpp's own converter keeps some in finer
ones, so that ours reads the fewest bytes), and Llama 3's rope scaling, which costs no time, is left out.
Needs gguf, torch and safetensors: it runs in llama.cpp's environment.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Array = NDArray[np.float32]
TYPES: Final = {
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
ARCHITECTURES: Final = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
}
NAMES: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}
EXPERT: Final = re.compile(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj")
NORMAL, CONTROL = 1, 3  # llama.cpp's kinds of tokens


def main(source: Path, out: Path, kind: str) -> None:
    """Write `out`; raises SystemExit for an architecture that is not known here."""
    config = json.loads((source / "config.json").read_text())
    architecture = ARCHITECTURES.get(config["architectures"][0])
    if architecture is None:
        raise SystemExit(f"{config['architectures'][0]} is not written as GGUF; known: {', '.join(ARCHITECTURES)}")
    writer = gguf.GGUFWriter(out, architecture, use_temp_file=True)
    add_shape(writer, config)
    add_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()), config)
    for name, array in tensors(source, config):
        if array.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, TYPES[kind]), raw_dtype=TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: Any, config: dict[str, Any]) -> None:
    """The hyperparameters."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))))
    writer.add_vocab_size(config["vocab_size"])
    if "num_experts" in config:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def add_tokenizer(writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """The byte-level BPE; ids that it does not name get a text of their own, because a random model writes them too."""
    bpe, num_tokens = tokenizer["model"], config["vocab_size"]
    tokens = [f"<unused{index}>" for index in range(num_tokens)]
    for token, index in bpe["vocab"].items():
        tokens[index] = token
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2" if splits_like_gpt2(tokenizer["pre_tokenizer"]) else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in bpe["merges"]])
    writer.add_token_types([CONTROL if token.startswith("<|") else NORMAL for token in tokens])
    end = config.get("eos_token_id")
    writer.add_eos_token_id(end[0] if isinstance(end, list) else end if end is not None else 2)


def splits_like_gpt2(splitter: dict[str, Any]) -> bool:
    """Whether text is cut by the pattern built into the byte-level splitter, and not by one of the checkpoint's own."""
    return splitter["type"] == "ByteLevel" and bool(splitter["use_regex"])


def tensors(source: Path, config: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """(GGUF name, float32 array) of every tensor; a layer's experts stacked [experts, out, in]."""
    where = {name: path for path in sorted(source.glob("*.safetensors")) for name in _names(path)}
    if config.get("tie_word_embeddings"):
        where.pop("lm_head.weight", None)
    stacks: dict[str, dict[int, str]] = {}
    for name in where:
        layer, rest, kind = split_name(name)
        if expert := EXPERT.fullmatch(rest):
            stacks.setdefault(f"blk.{layer}.ffn_{expert[2]}_exps.{kind}", {})[int(expert[1])] = name
            continue
        array = _read(where[name], name)
        if config["architectures"][0] == "LlamaForCausalLM" and rest in ("self_attn.q_proj", "self_attn.k_proj"):
            array = interleave_halves(array, num_heads(rest, config))
        yield (f"blk.{layer}." if layer else "") + f"{NAMES[rest]}.{kind}", array
    for name, members in stacks.items():
        yield name, np.stack([_read(where[members[index]], members[index]) for index in sorted(members)])


def split_name(name: str) -> tuple[str, str, str]:
    """`model.layers.3.mlp.up_proj.weight` -> ("3", "mlp.up_proj", "weight"); outside layers the first is empty."""
    rest, _, kind = name.rpartition(".")
    if not rest.startswith("model.layers."):
        return "", rest, kind
    _, _, layer, rest = rest.split(".", 3)
    return layer, rest, kind


def num_heads(projection: str, config: dict[str, Any]) -> int:
    """Heads of the query or the key projection."""
    heads = int(config["num_attention_heads"])
    return heads if projection.endswith("q_proj") else int(config.get("num_key_value_heads") or heads)


def interleave_halves(array: Array, heads: int) -> Array:
    """Rows of each head from rotated halves to rotated neighbours, as GGUF's Llama has them: [rows, ...]."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _read(path: Path, name: str) -> Array:
    with safe_open(path, "pt") as file:
        array: Array = file.get_tensor(name).float().numpy()
        return array


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
