"""A block's payload, as another spec wants it: slices of layers and heads, another dtype. NumPy only.

The payload is that of `format`: `[layer, key or value, token, kv_head, head_dim]`, in int8 followed by the scales. It
is converted layer by layer, so that what lies between stays in the cache. What need not change is copied once.

Between floating-point dtypes values round to nearest, ties to even; infinities and NaN stay what they are, and what the
narrower dtype cannot hold (a finite value that would become infinite) is refused as `BadBlock`, because a block that
cannot be read right is computed again. So are infinities and NaN on their way to int8. int8 is what the engine's own
kernels write (`engine/kernels/bits.py`): codes of largest / 127, ties to even; a head that stays below 1e-30 is zeros.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenworks.contract.kv import KVSpec
from tokenworks.kv.format import BadBlock, BlockFault, Header
from tokenworks.kv.negotiation import Conversion, Refusal, negotiate

Array = NDArray[Any]

_STORED: Final = {"float32": "<f4", "bfloat16": "<u2", "float16": "<f2", "int8": "<i1"}
_LARGEST_CODE: Final = np.float32(127)
_LEAST: Final = np.float32(1e-30)
_SIGNLESS: Final = np.uint32(0x7FFFFFFF)
_INFINITY: Final = np.uint32(0x7F800000)
_FIRST_BEYOND_BFLOAT16: Final = np.uint32(0x7F7F8000)  # rounds to infinity


class _Planes(NamedTuple):
    """A payload, shared: codes or numbers, and the scales of codes."""

    data: Array  # [layer, key or value, token, kv_head, head_dim]
    scales: Array | None  # float32 [layer, key or value, token, kv_head]


def convert(payload: memoryview, theirs: Header | KVSpec, ours: KVSpec, out: memoryview) -> None:
    """Write their `payload` to `out` (`ours.bytes_per_block` bytes) as ours.

    Raises BadBlock: `spec` where `negotiate` refuses or a value has no counterpart, `torn` where `payload` is not as
    long as its spec says. `out` may then hold anything.
    """
    conversion = negotiate(theirs, ours)
    if isinstance(conversion, Refusal):
        raise BadBlock(BlockFault.SPEC, f"this KV block cannot be used: {conversion.reason}")
    apply(conversion, payload, out)


def apply(conversion: Conversion, payload: memoryview, out: memoryview) -> None:
    """As `convert`, once it has been negotiated."""
    if payload.nbytes != conversion.source_bytes:
        raise BadBlock(BlockFault.TORN, f"a payload of {payload.nbytes} bytes, not {conversion.source_bytes}")
    assert out.nbytes == conversion.target_bytes, f"{out.nbytes} bytes for a payload of {conversion.target_bytes}"
    if conversion.is_copy:
        out.cast("B")[:] = payload.cast("B")
        return
    source, target = _source(conversion, payload), _target(conversion, out)
    for layer in range(len(target.data)):
        _convert_layer(conversion, _layer(source, layer), _layer(target, layer))


def _source(conversion: Conversion, payload: memoryview) -> _Planes:
    """Of their payload, what we keep."""
    whole = _planes(payload, conversion.source, conversion, conversion.num_layers, conversion.num_kv_heads)
    kept = (conversion.layers, slice(None), slice(None), conversion.heads)
    return _Planes(whole.data[kept], None if whole.scales is None else whole.scales[kept])


def _target(conversion: Conversion, out: memoryview) -> _Planes:
    layers, heads = conversion.layers, conversion.heads
    return _planes(out, conversion.target, conversion, layers.stop - layers.start, heads.stop - heads.start)


def _planes(payload: memoryview, dtype: str, conversion: Conversion, num_layers: int, num_kv_heads: int) -> _Planes:
    shape = (num_layers, 2, conversion.block_tokens, num_kv_heads, conversion.head_dim)
    raw = np.frombuffer(payload, np.uint8)
    data_bytes = int(np.prod(shape)) * np.dtype(_STORED[dtype]).itemsize
    data = raw[:data_bytes].view(_STORED[dtype]).reshape(shape)
    return _Planes(data, raw[data_bytes:].view("<f4").reshape(shape[:-1]) if dtype == "int8" else None)


def _layer(planes: _Planes, layer: int) -> _Planes:
    return _Planes(planes.data[layer], None if planes.scales is None else planes.scales[layer])


def _convert_layer(conversion: Conversion, source: _Planes, target: _Planes) -> None:
    if conversion.source == conversion.target:
        target.data[...] = source.data
        if source.scales is not None and target.scales is not None:
            target.scales[...] = source.scales
        return
    _write(_numbers(conversion.source, source), conversion.target, target)


def _numbers(dtype: str, source: _Planes) -> Array:
    """float32 [key or value, token, kv_head, head_dim]: exactly what is stored."""
    if dtype == "bfloat16":
        return (source.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    numbers: Array = source.data.astype(np.float32, copy=False)
    return numbers if source.scales is None else numbers * source.scales[..., None]


def _write(numbers: Array, dtype: str, target: _Planes) -> None:
    if dtype == "float32":
        target.data[...] = numbers
    elif dtype == "bfloat16":
        target.data[...] = _bfloat16(numbers)
    elif dtype == "float16":
        _write_float16(numbers, target.data)
    else:
        _write_codes(numbers, target)


def _bfloat16(numbers: Array) -> Array:
    """The bits of float32 numbers as bfloat16 (in uint32): the upper half, rounded to nearest, ties to even."""
    bits: Array = np.ascontiguousarray(numbers).view(np.uint32)
    rounded: Array = (bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)))) >> np.uint32(16)
    size = bits & _SIGNLESS
    if size.max() < _FIRST_BEYOND_BFLOAT16:
        return rounded
    if ((size >= _FIRST_BEYOND_BFLOAT16) & (size < _INFINITY)).any():
        raise _beyond("bfloat16")
    quiet_nan = bits >> np.uint32(16) | np.uint32(0x40)  # rounding might carry it to an infinity
    return np.where(size > _INFINITY, quiet_nan, rounded)


def _write_float16(numbers: Array, out: Array) -> None:
    with np.errstate(over="ignore", under="ignore"):
        out[...] = numbers
    infinite = np.isinf(out)
    if infinite.any() and np.isfinite(numbers[infinite]).any():
        raise _beyond("float16")


def _write_codes(numbers: Array, target: _Planes) -> None:
    """As `engine/kernels/bits.py: encode`, operation by operation, so that the codes and scales are the same bits."""
    assert target.scales is not None
    with np.errstate(invalid="ignore"):
        largest = np.maximum(numbers.max(-1), -numbers.min(-1))
    if not np.isfinite(largest).all():
        raise _beyond("int8")
    is_nothing = largest < _LEAST
    factor = np.where(is_nothing, np.float32(0), _LARGEST_CODE / np.where(is_nothing, np.float32(1), largest))
    steps = numbers * factor[..., None]
    np.rint(steps, out=steps)
    target.data[...] = steps  # NumPy casts to int8 as it writes; no step is beyond 127
    target.scales[...] = np.where(is_nothing, np.float32(0), largest / _LARGEST_CODE)


def _beyond(dtype: str) -> BadBlock:
    return BadBlock(BlockFault.SPEC, f"a KV block with values that {dtype} cannot hold: it is computed again instead")
