"""Reads checkpoints that were quantised before: their integers and scales become our form, and nothing is rounded.

A scale per output channel, or per group wider than ours, is repeated for each of our groups. Products computed with
them still differ from the format's own arithmetic in one thing: our rows are rounded to int8 group by group.

pack-quantized   weight_packed int32 [N, ceil(K / per)], `per` = 32 / bits numbers a word, lowest bits first, each plus
                 2^(bits-1); weight_scale [N, groups]; weight_shape [2]. Groups are runs of columns; one is a channel.
int-quantized    weight int8 [N, K]; weight_scale [N, groups].
GPTQ             qweight int32 [K / per, N], words run along the columns; qzeros int32 [groups, N / per], zero points
                 less one (v1) or as they are (v2); scales [groups, N]; g_idx int32 [K], the group of each column.
                 weight = scale * (number - zero point).
Sources: github.com/vllm-project/compressed-tensors (pack_to_int32), github.com/ModelCloud/GPTQModel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tokenworks.contract.errors import CheckpointError
from tokenworks.engine.checkpoint import Checkpoint
from tokenworks.engine.quantize import QuantizedWeight, Weight, group_size_of
from tokenworks.engine.stored_quantization import INSTEAD, StoredQuantization

_WORD_BITS: Final = 32
_Parts = tuple[Tensor, Tensor, int]  # values int8 [N, K], scales [N, groups], bits


class QuantizedCheckpoint:
    """A source of weights (`WeightSource`) over a checkpoint in one of the formats above."""

    def __init__(self, checkpoint: Checkpoint, stored: StoredQuantization) -> None:
        self._checkpoint = checkpoint
        self._stored = stored

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has such a tensor."""
        return name in self._checkpoint

    def read(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The named tensors as floats."""
        return self._checkpoint.read(shapes)

    def read_matrices(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Weight]:
        """Quantised where they are stored so; what the checkpoint left as floats stays so."""
        return {name: self._read_one(name, shape) for name, shape in shapes.items()}

    def fingerprint(self, numerics: str | None) -> str:
        """See `Checkpoint`; the integers and scales are part of it: rounded weights are a model of their own."""
        return self._checkpoint.fingerprint(numerics and f"{numerics} rows rounded to int8")

    def form(self, dtype: torch.dtype) -> str:
        """Where they came from."""
        return f"{self._stored.format} integers"

    def _read_one(self, name: str, shape: tuple[int, ...]) -> Weight:
        prefix = name.removesuffix("weight")
        names = [prefix + piece for piece in self._stored.pieces]
        if names[1] not in self._checkpoint:  # scales or zero points are with every matrix that was quantised
            return self._checkpoint.read({name: shape})[name]
        if prefix + "weight_g_idx" in self._checkpoint:
            raise CheckpointError(f"{self._checkpoint.directory}: {name}: columns in act-order; {INSTEAD}")
        tensors = self._checkpoint.read_as_stored(names)
        try:
            return self._convert(*(tensors[piece] for piece in names), shape=shape)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            raise CheckpointError(f"{self._checkpoint.directory}: {name}: {error}") from error

    def _convert(self, *tensors: Tensor, shape: tuple[int, ...]) -> Weight:
        match self._stored.format:
            case "pack-quantized":
                values, scales, bits = _from_packed(tensors, shape)
            case "int-quantized":
                values, scales, bits = *tensors, 8
            case "gptq":
                values, scales, bits = _from_gptq(tensors, shape[1], self._stored.zero_offset)
        _require(tuple(values.shape) == shape, f"stored as {list(values.shape)}, config.json asks for {list(shape)}")
        return _canonical(values, scales.float(), bits)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """int32 [rows, columns] to the unsigned numbers in them [rows, columns * 32 / bits], lowest bits first."""
    shifts = torch.arange(0, _WORD_BITS, bits, dtype=torch.int32)
    return (words[:, :, None] >> shifts & (1 << bits) - 1).flatten(1)


def _from_packed(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> _Parts:
    packed, scales, stored_shape = tensors
    _require(stored_shape.tolist() == list(shape), f"weight_shape is {stored_shape.tolist()}, not {list(shape)}")
    bits = _bits_of(packed.shape[1], shape[1])
    return (unpack_words(packed, bits)[:, : shape[1]] - (1 << bits - 1)).to(torch.int8), scales, bits


def _from_gptq(tensors: Sequence[Tensor], columns: int, zero_offset: int) -> _Parts:
    qweight, qzeros, scales, g_idx = tensors
    bits = _bits_of(qweight.shape[0], columns)
    zero = 1 << bits - 1
    zeros = unpack_words(qzeros, bits) + zero_offset
    _require(bool((zeros == zero).all()), "asymmetric zero points; use a checkpoint with sym: true")
    in_order = torch.arange(columns) // -(-columns // scales.shape[0])
    _require(torch.equal(g_idx.long(), in_order), "columns in act-order; use a checkpoint with desc_act: false")
    return (unpack_words(qweight.T.contiguous(), bits) - zero).to(torch.int8), scales.T.contiguous(), bits


def _bits_of(words: int, columns: int) -> int:
    """How many bits each number has, from the words that the numbers of a row take."""
    for bits in (4, 8):
        if words == -(-columns * bits // _WORD_BITS):
            return bits
    raise ValueError(f"{words} words for {columns} columns are neither 4 nor 8 bits")


def _canonical(values: Tensor, scales: Tensor, bits: int) -> Weight:
    """Our groups; where the stored ones do not divide into ours, floats."""
    rows, columns = values.shape
    scales = scales.reshape(rows, -1)
    _require(scales.numel() > 0 and columns % scales.shape[1] == 0, f"{scales.shape[1]} scales for {columns} columns")
    stored = QuantizedWeight(values.contiguous(), scales, bits, columns // scales.shape[1])
    group_size = group_size_of(stored.group_size, bits)
    return stored.dequantized() if group_size is None else stored.regrouped(bits, group_size)


def _require(is_met: bool, message: str) -> None:
    if not is_met:
        raise ValueError(message)
