"""Which weights a decoder gets: floats as stored, integers as stored, or floats rounded on the way and kept on disk.

The head stays at eight bits where the layers have four: its error goes straight into every token's probability.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from tokenworks.contract.errors import CheckpointError, ConfigError
from tokenworks.contract.folders import quantized_folder
from tokenworks.engine.checkpoint import EMBEDDING, HEAD, Checkpoint, WeightSource
from tokenworks.engine.model_config import ModelConfig
from tokenworks.engine.quantize import QUANTIZER_VERSION, QuantizedWeight, Weight, group_size_of, quantize
from tokenworks.engine.quantized_cache import QuantizedCache, cache_key
from tokenworks.engine.quantized_checkpoint import QuantizedCheckpoint

log = logging.getLogger(__name__)

HEAD_BITS: Final = 8
_BITS: Final = {"int8": 8, "int4": 4}


class QuantizingSource:
    """A source of weights (`WeightSource`) that rounds a float checkpoint's matrices, or finds them in the cache."""

    def __init__(self, checkpoint: Checkpoint, bits: int, cache: QuantizedCache) -> None:
        self._checkpoint = checkpoint
        self._bits = bits
        self._cache = cache

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has such a tensor."""
        return name in self._checkpoint

    def read(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The named tensors as floats."""
        return self._checkpoint.read(shapes)

    def read_matrices(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Weight]:
        """Quantised but where no group size divides the columns."""
        if any(len(shape) != 2 for shape in shapes.values()):
            what = "experts saved as one tensor a layer are not quantised: save them with save_original_format=True"
            raise CheckpointError(f"{self._checkpoint.directory}: {what}, or leave out --quantize")
        fitting = {name: shape for name, shape in shapes.items() if group_size_of(shape[1], self._bits_of(name))}
        others = {name: shape for name, shape in shapes.items() if name not in fitting}
        return {**self._quantized(fitting), **self._checkpoint.read(others)}

    def fingerprint(self, numerics: str | None) -> str:
        """See `Checkpoint`; the same whether the weights were rounded now or found. None: as of the unrounded ones."""
        if numerics is None:
            return self._checkpoint.fingerprint(None)
        return self._checkpoint.fingerprint(f"{numerics} int{self._bits} by quantiser {QUANTIZER_VERSION}")

    def form(self, dtype: torch.dtype) -> str:
        """As it was asked for."""
        return f"int{self._bits}"

    def _bits_of(self, name: str) -> int:
        return HEAD_BITS if name in (EMBEDDING, HEAD) else self._bits

    def _quantized(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, QuantizedWeight]:
        if not shapes:
            return {}
        part = next(iter(shapes))
        if (found := self._cache.load(part, list(shapes))) is not None:
            weights, sources = found
            self._checkpoint.trust(sources)
            return weights
        tensors = self._checkpoint.read(shapes)
        weights = {name: self._quantize(name, tensor) for name, tensor in tensors.items()}
        self._cache.store(part, weights, self._checkpoint.digests(shapes))
        return weights

    def _quantize(self, name: str, tensor: Tensor) -> QuantizedWeight:
        weight = quantize(tensor, self._bits_of(name))
        if not weight.scales.isfinite().all():
            what = f"{name} holds NaN, infinity or numbers too large to quantise"
            raise CheckpointError(f"{self._checkpoint.directory}: {what}; fetch it again, or serve it unquantised")
        return weight


def open_weights(directory: Path, config: ModelConfig, wanted: Literal["none", "int8", "int4"]) -> WeightSource:
    """The source for `--quantize wanted`; raises CheckpointError or ConfigError."""
    checkpoint = Checkpoint(directory)
    if config.stored_quantization is not None:
        if wanted != "none":
            raise ConfigError(f"{directory} is quantised already: leave out --quantize {wanted}")
        return QuantizedCheckpoint(checkpoint, config.stored_quantization)
    if wanted == "none":
        return checkpoint
    bits = _BITS[wanted]
    key = cache_key(checkpoint.files, directory / "config.json", bits)
    folder = quantized_folder() / f"{directory.resolve().name}-{wanted}-{key[:16]}"
    log.info("weights as %s, kept in %s", wanted, folder)
    return QuantizingSource(checkpoint, bits, QuantizedCache(folder))
