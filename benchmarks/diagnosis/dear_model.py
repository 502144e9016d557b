"""A small model whose prompts are dear to compute for the KV that they leave, as those of large models are.

The embedded model computes 80 KiB of KV in a millisecond or two, which a busy machine needs to fetch them: whether a
tier pays is then a matter of chance. This one has a single KV head and a wide MLP, so that as many bytes take thirty
times the work. Its weights are random: only its speed is of interest.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenworks.engine.random_checkpoint import write_random_weights
from tokenworks.fleet.launch import EMBEDDED_MODEL

_SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


def write_dear_model(folder: Path) -> Path:
    """Its checkpoint, with the tokenizer of the embedded model, in a new folder; a second call finds it there."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    for file in (*EMBEDDED_MODEL.glob("tokenizer*.json"), EMBEDDED_MODEL / "special_tokens_map.json"):
        shutil.copy(file, folder)
    config = json.loads((EMBEDDED_MODEL / "config.json").read_bytes())
    config = {name: value for name, value in config.items() if name != "layer_types"} | _SHAPE
    (folder / "config.json").write_text(json.dumps(config))
    write_random_weights(folder, seed=1, progress=lambda done, total: None)
    return folder
