"""bf16 and float32 memory as kernels see it: unsigned integers, widened to float32 row by row.

Numba has no bf16. Its bits are the upper half of a float32's, so widening is a shift by 16, and narrowing is a shift
back after rounding to nearest, ties to even. float32 memory goes through the same code with a shift of 0. All sums are
float32.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def bits_of(tensor: Tensor) -> Array:
    """The tensor's memory as unsigned integers of its element size; shared, not copied."""
    return tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint32).numpy()


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
