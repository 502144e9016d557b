"""Reads the weights of a Hugging Face checkpoint directory: sharded or single safetensors, memory-mapped.

A read returns tensors that are views of the mapped file; once the caller has packed them and lets go, the pages go too.
So loading never holds a second copy of the model. Every tensor that is read is also hashed, so that when all have been
read the checkpoint's fingerprint has cost no second pass.

Invariant: what is missing, cut short or of the wrong shape raises CheckpointError that names the file and what to do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenworks.contract.errors import CheckpointError
from tokenworks.engine.model_config import read_json
from tokenworks.engine.quantize import Weight

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"


class WeightSource(Protocol):
    """Where a decoder's tensors come from: as they are stored, quantised on the way, or from a cache."""

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has such a tensor."""

    def read(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The named tensors as floats."""

    def read_matrices(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Weight]:
        """The named matrices, for multiplying with; each is read once."""

    def fingerprint(self, numerics: str | None) -> str:
        """32 hex digits over all that was read and the arithmetic that it is computed in; None: whatever that is."""

    def form(self, dtype: torch.dtype) -> str:
        """In a word or two, what matrices are multiplied as where floats are `dtype`."""


class Checkpoint:
    """The tensors of one checkpoint directory, by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._shard_of = _shards_by_tensor(directory)
        self._digests: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    @property
    def files(self) -> list[Path]:
        """Every file that holds tensors."""
        return [self.directory / shard for shard in sorted(set(self._shard_of.values()))]

    def read(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The named tensors, checked against `shapes`; views of the mapped files, to be dropped soon."""
        tensors = self._map(shapes)
        for name, tensor in tensors.items():
            self._check(name, tensor, shapes[name])
            self._note(name, tensor)
        return tensors

    def read_matrices(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Weight]:
        """The same, for weights that are multiplied with: other sources may answer with quantised ones."""
        return dict(self.read(shapes))

    def read_as_stored(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors of whatever kind and shape they are, for who knows the format they belong to."""
        tensors = self._map(names)
        for name, tensor in tensors.items():
            self._note(name, tensor)
        return tensors

    def _map(self, names: Iterable[str]) -> dict[str, Tensor]:
        by_shard: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_shard[self._shard(name)].append(name)
        tensors: dict[str, Tensor] = {}
        for shard, wanted in by_shard.items():
            tensors.update(_read_shard(self.directory / shard, wanted))
        return tensors

    def _shard(self, name: str) -> str:
        if name not in self._shard_of:
            raise CheckpointError(f"{self.directory}: no tensor {name}; the files do not fit config.json")
        return self._shard_of[name]

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != shape:
            found = list(tensor.shape)
            raise CheckpointError(f"{self.directory}: {name} is {found}, config.json asks for {list(shape)}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{self.directory}: {name} is {tensor.dtype}; only floating-point weights are read")

    def _note(self, name: str, tensor: Tensor) -> None:
        if name not in self._digests:
            self._digests[name] = f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest(tensor)}"

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """What the named tensors, read before, add to the fingerprint."""
        return {name: self._digests[name] for name in names}

    def trust(self, digests: dict[str, str]) -> None:
        """Take what `digests` said of the same files before, so that they need not be read for the fingerprint."""
        self._digests.update(digests)

    def fingerprint(self, numerics: str | None) -> str:
        """32 hex digits over all tensors read so far, config.json and the arithmetic they are computed in, if given."""
        config = json.dumps(_semantic_config(read_json(self.directory / "config.json")), sort_keys=True)
        parts = [numerics or "", config, *(self._digests[name] for name in sorted(self._digests))]
        return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())

    def form(self, dtype: torch.dtype) -> str:
        """As computed."""
        return name_of(dtype)


def name_of(dtype: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def digest(tensor: Tensor) -> str:
    """32 hex digits over the bytes of a tensor."""
    return xxhash.xxh3_128_hexdigest(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _semantic_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what does not change the numbers, so that a re-saved checkpoint keeps its fingerprint."""
    cosmetic = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache"}
    return {key: value for key, value in config.items() if key not in cosmetic}


def _shards_by_tensor(directory: Path) -> dict[str, str]:
    """Tensor name -> file name, from the index or the single file; every file named is there and readable."""
    if (directory / INDEX_NAME).exists():
        weight_map = read_json(directory / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{directory / INDEX_NAME} has no weight_map: fetch the file again")
        _require_shards(directory, sorted(set(map(str, weight_map.values()))))
        return {str(name): str(shard) for name, shard in weight_map.items()}
    if (directory / SINGLE_NAME).exists():
        return dict.fromkeys(_tensor_names(directory / SINGLE_NAME), SINGLE_NAME)
    raise CheckpointError(_no_weights_message(directory))


def _require_shards(directory: Path, shards: Sequence[str]) -> None:
    missing = [shard for shard in shards if "/" in shard or not (directory / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of {len(shards)} weight files: {', '.join(missing)}. "
            f"{INDEX_NAME} names them; fetch them into that directory"
        )
    for shard in shards:
        _tensor_names(directory / shard)


def _no_weights_message(directory: Path) -> str:
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        return f"{directory} has only pickled weights, which are not loaded: convert them to safetensors"
    return f"{directory} has no {SINGLE_NAME} and no {INDEX_NAME}: fetch the weights into it"


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_shard(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    size = path.stat().st_size if path.exists() else 0
    return CheckpointError(f"{path} ({size} bytes) is cut short or damaged: {error}. Fetch it again")
