"""What a checkpoint directory says about text: special tokens, chat template, window, generation defaults.

Reads `config.json`, `generation_config.json`, `tokenizer_config.json` and `chat_template.jinja`; knows nothing of
weights and nothing of how the answers are used. Only `config.json` must exist.

End-of-sequence ids are the tokenizer's `eos_token` together with `generation_config.json`'s ids (or, where that file
names none, those of `config.json`): a chat model ends its turn with one and its document with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tokenworks.contract.errors import CheckpointError

T = TypeVar("T")

SPECIAL_TOKEN_NAMES: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class GenerationDefaults(msgspec.Struct, frozen=True):
    """Sampling values that the checkpoint's authors recommend; None where the file does not say.

    As in vLLM, a value that is present applies whatever `do_sample` says: `do_sample` describes a library's default
    mode, not the model.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


class _Config(msgspec.Struct, frozen=True):
    """The keys of `config.json` that matter here."""

    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    eos_token_id: int | list[int] | None = None


class _GenerationConfig(GenerationDefaults, frozen=True):
    """The keys of `generation_config.json` that matter here."""

    eos_token_id: int | list[int] | None = None


class ModelFiles(msgspec.Struct, frozen=True):
    """Everything the text side needs to know of a checkpoint, apart from the tokenizer itself."""

    directory: Path
    vocab_size: int | None
    max_context_tokens: int | None
    eos_token_ids: tuple[int, ...]  # without the tokenizer's own `eos_token`, which has no id yet
    special_tokens: dict[str, str]  # such as {"bos_token": "<s>"}
    chat_template: str | None
    generation: GenerationDefaults


def read_model_files(directory: str | Path) -> ModelFiles:
    """Read the small JSON files of a checkpoint; raises CheckpointError."""
    path = Path(directory)
    config = _read(path / "config.json", _Config, is_required=True)
    generation = _read(path / "generation_config.json", _GenerationConfig)
    tokenizer = _read(path / "tokenizer_config.json", dict[str, Any])
    return ModelFiles(
        directory=path,
        vocab_size=config.vocab_size,
        max_context_tokens=config.max_position_embeddings,
        eos_token_ids=_ids(generation.eos_token_id) or _ids(config.eos_token_id),
        special_tokens=_special_tokens(tokenizer),
        chat_template=_chat_template(path, tokenizer.get("chat_template")),
        generation=generation,
    )


def _read(path: Path, kind: type[T], is_required: bool = False) -> T:
    """The file as `kind`; an empty one where an optional file is missing."""
    if not path.exists() and not is_required:
        return kind()
    return decode_json(path, read_bytes(path), kind)


def read_bytes(path: Path) -> bytes:
    """The file's content; raises CheckpointError that names the file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror}; give a Hugging Face checkpoint directory that has this file"
        ) from error


def decode_json(path: Path, content: bytes, kind: type[T]) -> T:
    """The JSON content as `kind`; raises CheckpointError that names the file."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is malformed: {error}; copy or download the file again") from error


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _special_tokens(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name; each is a string or an object with the string as `content`."""
    found = {}
    for name in SPECIAL_TOKEN_NAMES:
        token = tokenizer.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            found[name] = content
    return found


def _chat_template(path: Path, inline: Any) -> str | None:
    """The separate file, else the inline template; of several named ones `default`, or the only one."""
    separate = path / "chat_template.jinja"
    if separate.exists():
        return read_bytes(separate).decode("utf-8", errors="replace")
    if isinstance(inline, str):
        return inline
    if not isinstance(inline, list):
        return None
    named = {str(entry.get("name")): str(entry.get("template")) for entry in inline if isinstance(entry, dict)}
    return named.get("default") or (next(iter(named.values())) if len(named) == 1 else None)
