"""A random checkpoint of a real shape is a checkpoint like any other: `transformers` and the engine load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.contract.request import Sampling
from tokenworks.engine.model_config import read_model_config
from tokenworks.engine.random_checkpoint import SHAPES, write_random_checkpoint

TINY = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}


@pytest.mark.parametrize("like", SHAPES)
def test_transformers_and_the_engine_agree_on_it(
    like: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_requests: Callable[..., Any],
    tokens_of: Any,
    make_reference: Any,
) -> None:
    tiny_experts = {"moe_intermediate_size": 48} if "moe_intermediate_size" in SHAPES[like] else {}
    monkeypatch.setitem(SHAPES, like, {**SHAPES[like], **TINY, **tiny_experts})
    write_random_checkpoint(tmp_path / "out", like, seed=3)
    config = read_model_config(tmp_path / "out")
    assert config.num_kv_heads == SHAPES[like]["num_key_value_heads"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    reference = make_reference(tmp_path / "out", model.eval())
    outputs = run_requests(reference.engine(max_context_tokens=64), {"r": ([5, 6, 7], Sampling(8, temperature=0))})
    assert tokens_of(outputs["r"]) == reference.greedy([5, 6, 7], 8)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", {**SHAPES["qwen3-0.6b"], **TINY})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, "tiny", seed)
    shards = ["".join(sorted(p.name for p in (tmp_path / n).glob("*.safetensors"))) for n in "abc"]
    assert shards[0] == shards[1]
    contents = [b"".join(p.read_bytes() for p in sorted((tmp_path / n).glob("*.safetensors"))) for n in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_unknown_shapes_and_full_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known: qwen3-0.6b"):
        write_random_checkpoint(tmp_path / "out", "gpt-5")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StartupError, match="not empty"):
        write_random_checkpoint(tmp_path, "qwen3-0.6b")
