"""bf16 and float32 memory as kernels see it: unsigned integers, widened to float32 row by row.

Numba has no bf16. Its bits are the upper half of a float32's, so widening is a shift by 16, and narrowing is a shift
back after rounding to nearest, ties to even. float32 memory goes through the same code with a shift of 0. All sums are
float32. KV in int8 stays what it is: whole numbers, with a scale for each head of a token.

Kernels that meet both kinds of KV are given its scales or None, and ask `is None`: Numba decides that when it compiles
for a type, so that neither kind pays for the other.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenworks.engine.kv_cache import Plane

Array = NDArray[Any]


def bits_of(tensor: Tensor) -> Array:
    """The tensor's memory as unsigned integers of its element size; shared, not copied."""
    return tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint32).numpy()


def plane_arrays(plane: Plane) -> tuple[Array, Array | None]:
    """A plane's memory and scales, shared: bits where it has no scales, else int8 codes."""
    if plane.scales is None:
        return bits_of(plane.data), None
    return plane.data.numpy(), plane.scales.numpy()


def shift_of(dtype: torch.dtype) -> np.uint32:
    """By how many bits an element of `dtype` is shifted to become a float32."""
    return np.uint32(16 if dtype == torch.bfloat16 else 0)


@numba.njit(cache=True, nogil=True, fastmath=True)
def widen(bits: Array, shift: np.uint32, into: Array) -> None:
    """A row's bits to float32 bits (uint32, of which the caller holds a float32 view)."""
    for d in range(bits.shape[0]):
        into[d] = np.uint32(bits[d]) << shift


@numba.njit(cache=True, nogil=True, fastmath=True)
def narrow(wide: Array, shift: np.uint32, into: Array) -> None:
    """float32 bits (uint32) to a row of the memory's element size, rounded to nearest, ties to even."""
    if shift == 0:
        for d in range(wide.shape[0]):
            into[d] = wide[d]
    else:
        for d in range(wide.shape[0]):
            into[d] = (wide[d] + np.uint32(0x7FFF) + ((wide[d] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})  # not "arcp": x / 127 has to be the quotient, see below
def encode(wide: Array, codes: Array) -> np.float32:
    """A head of float32 to int8 codes, rounded to nearest, ties to even; returns what one step of a code is worth.

    The same bits as in the native kernels (`native/csrc/kv.h`) and in conversions between workers (`kv/convert.py`).
    A head that stays below 1e-30 is stored as zeros: its scale would leave float32.
    """
    largest = np.float32(0)
    for d in range(wide.shape[0]):
        largest = max(largest, abs(wide[d]))
    if largest < np.float32(1e-30):
        codes[:] = 0
        return np.float32(0)
    factor = np.float32(127) / largest
    for d in range(wide.shape[0]):
        codes[d] = np.int8(np.rint(wide[d] * factor))
    return largest / np.float32(127)
