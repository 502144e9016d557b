"""Tiny tokenizers of the families that are served, built on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenworks.text.tokenizer import Tokenizer, load_tokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the dog does not mind",
    "你好世界。こんにちは世界。안녕하세요 🙂🙃👩‍👩‍👧 naïve café Ünïcödé",
]


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint directory: `write(backend, **files)`, each file a value for JSON."""

    def write(backend: tokenizers.Tokenizer | None, **files: object) -> Path:
        files = {"config": {}, **files}
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        if backend is not None:
            backend.save(str(tmp_path / "tokenizer.json"))
        return tmp_path

    return write


@pytest.fixture
def byte_level() -> tokenizers.Tokenizer:
    """Byte-level BPE over all 256 bytes, as Llama 3 and Qwen use it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<tool call>", special=False)])
    return backend


@pytest.fixture
def byte_fallback() -> tokenizers.Tokenizer:
    """SentencePiece-like BPE with byte fallback, as Llama 2 and Mistral use it."""
    words = ["▁", "a", "b", "c", "é", "你", "▁a", "▁b", "ab", "▁ab", "▁▁"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    vocab |= {word: len(vocab) + at for at, word in enumerate(words)}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "ab"), ("▁", "▁")]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


@pytest.fixture
def metaspace() -> tokenizers.Tokenizer:
    """A tokenizer whose decoder is Metaspace alone."""
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "▁b": 4, "é": 5, "▁▁": 6}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    return backend


@pytest.fixture
def load(write_checkpoint: Callable[..., Path]) -> Callable[..., Tokenizer]:
    """The tokenizer as the gateway loads it."""
    return lambda backend, **files: load_tokenizer(write_checkpoint(backend, **files))
