"""The likeliest token of each row. PyTorch's arg-max takes 3 ms for 32 rows of 152 k logits; its maximum 0.2 ms."""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from torch import Tensor

from tokenworks.engine.kernels.bits import Array

_STRETCH: Final = 1024  # looked through as a whole, which makes it a loop of vectors, before the place is told


def likeliest(logits_SV: Tensor) -> list[int]:
    """Index of each row's largest float32 logit, the first of equals; 0 for a row with NaN."""
    if not len(logits_SV):
        return []
    out = np.zeros(len(logits_SV), np.int64)
    _find(logits_SV.numpy(), logits_SV.amax(dim=-1).numpy(), out)
    tokens: list[int] = out.tolist()
    return tokens


@numba.njit(cache=True, nogil=True)
def _find(rows: Array, values: Array, out: Array) -> None:
    for s in range(rows.shape[0]):
        out[s] = _index_of(rows[s], values[s])


@numba.njit(cache=True, nogil=True)
def _index_of(row: Array, value: np.float32) -> int:
    for start in range(0, row.shape[0], _STRETCH):
        stretch = row[start : start + _STRETCH]
        found = np.int32(0)
        for i in range(stretch.shape[0]):
            found += np.int32(stretch[i] == value)
        if found:
            for i in range(stretch.shape[0]):
                if stretch[i] == value:
                    return start + i
    return 0
