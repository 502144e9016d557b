"""What a checkpoint folder holds, read from its JSON files and the headers of its safetensors files.

No weight is read and torch is not loaded, so that a 100 GB checkpoint is described in a moment, also where it does not
fit. A safetensors file is: 8 bytes, the header's length (little endian); the header, JSON, each tensor with `dtype`,
`shape` and `data_offsets`; the data. See the safetensors project's format page.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.contract.errors import CheckpointError
from tokenworks.contract.kv import KVSpec
from tokenworks.engine.model_config import ModelConfig, read_json, read_model_config

INDEX: Final = "model.safetensors.index.json"
_MAX_HEADER_BYTES: Final = 100 << 20  # the format's own limit
_LENGTH_BYTES: Final = 8


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class Inspection(msgspec.Struct, frozen=True):
    """What there is, and whether it can be served; a figure that could not be found is None."""

    folder: Path
    config: ModelConfig | None
    num_parameters: int | None
    weight_bytes: int | None
    dtypes: tuple[str, ...]  # of the stored tensors, by share of parameters
    has_tokenizer: bool
    has_chat_template: bool
    problems: tuple[str, ...]  # empty: it can be served

    @property
    def num_active_parameters(self) -> int | None:
        """Parameters that one token passes through; None where it passes through all, or they are not known."""
        if self.config is None or self.config.experts is None or self.num_parameters is None:
            return None
        return self.num_parameters - self.config.experts.num_resting_parameters(self.config.hidden_size)

    def kv_bytes_per_token(self, dtype: str) -> int | None:
        """Bytes that one token's keys and values take in `dtype`."""
        if self.config is None:
            return None
        shape = self.config
        return KVSpec("", shape.num_layers, shape.num_kv_heads, shape.head_dim, 1, dtype).bytes_per_token


def inspect_checkpoint(folder: Path) -> Inspection:
    """Look at everything in `folder` and collect the problems instead of stopping at the first."""
    problems: list[str] = []
    config = _config(folder, problems)
    tensors = _tensors(folder, problems)
    has_tokenizer = (folder / "tokenizer.json").is_file()
    if not has_tokenizer:
        problems.append(f"{folder} has no tokenizer.json, which serving text needs")
    parameters: Counter[str] = Counter()
    for tensor in tensors or ():
        parameters[tensor.dtype] += math.prod(tensor.shape)
    return Inspection(
        folder=folder,
        config=config,
        num_parameters=parameters.total() if tensors is not None else None,
        weight_bytes=sum(end - start for start, end in (t.data_offsets for t in tensors)) if tensors else None,
        dtypes=tuple(dtype for dtype, _ in parameters.most_common()),
        has_tokenizer=has_tokenizer,
        has_chat_template=_has_chat_template(folder),
        problems=tuple(problems),
    )


def read_header(file: Path) -> list[_Tensor]:
    """The tensors that a safetensors file says it holds; raises CheckpointError where it does not hold them."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(_LENGTH_BYTES))
            if length > _MAX_HEADER_BYTES:
                raise CheckpointError(f"{file} is not a safetensors file: its header claims {length} bytes")
            header = msgspec.json.decode(stream.read(length), type=dict[str, Any])
        header.pop("__metadata__", None)
        tensors = [msgspec.convert(entry, _Tensor) for entry in header.values()]
    except (OSError, struct.error, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged or missing ({error}): fetch it again") from error
    wanted = _LENGTH_BYTES + length + max((tensor.data_offsets[1] for tensor in tensors), default=0)
    if file.stat().st_size != wanted:
        raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes instead of {wanted:,}: fetch it again")
    return tensors


def _config(folder: Path, problems: list[str]) -> ModelConfig | None:
    try:
        return read_model_config(folder)
    except CheckpointError as error:
        problems.append(error.message)
        return None


def _tensors(folder: Path, problems: list[str]) -> list[_Tensor] | None:
    """All tensors of all files, or None with the problems noted."""
    found: list[_Tensor] = []
    before = len(problems)
    for file in _weight_files(folder, problems):
        try:
            found += read_header(file)
        except CheckpointError as error:
            problems.append(error.message)
    return found if len(problems) == before else None


def _weight_files(folder: Path, problems: list[str]) -> Iterator[Path]:
    if not (folder / INDEX).is_file():
        yield folder / "model.safetensors"
        return
    try:
        names = set(msgspec.convert(read_json(folder / INDEX).get("weight_map"), dict[str, str]).values())
    except (CheckpointError, msgspec.ValidationError) as error:
        problems.append(f"{folder / INDEX} cannot be used ({error}): fetch it again")
        return
    yield from (folder / name for name in sorted(names))


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return "chat_template" in read_json(folder / "tokenizer_config.json")
    except CheckpointError:
        return False
