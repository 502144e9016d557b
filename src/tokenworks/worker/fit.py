"""Fits a card's two latency models to measured points: least squares with no negative coefficient.

A step never gets faster because there is more to do. NumPy only: a worker without an engine of its own fits a card too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenworks.contract.card import DecodePoint, PrefillPoint


def fit_prefill(points: Sequence[PrefillPoint]) -> list[float]:
    """Base, per token, per (query, key) pair: see Card.prefill_s."""
    rows = [[1.0, p.new_tokens, p.new_tokens * (p.context_tokens + p.new_tokens / 2)] for p in points]
    return fit_non_negative(np.array(rows, dtype=float).reshape(-1, 3), np.array([p.seconds for p in points]))


def fit_decode(points: Sequence[DecodePoint]) -> list[float]:
    """Base, per sequence, per context token: see Card.decode_s."""
    rows = [[1.0, p.batch, p.batch * p.context_tokens] for p in points]
    return fit_non_negative(np.array(rows, dtype=float).reshape(-1, 3), np.array([p.seconds for p in points]))


def fit_non_negative(matrix: NDArray[np.float64], seconds: NDArray[np.float64]) -> list[float]:
    """Least squares, relative error, with coefficients >= 0: the most negative one is dropped until none is."""
    active = list(range(matrix.shape[1]))
    weights = 1 / np.maximum(seconds, 1e-9)
    result = [0.0] * matrix.shape[1]
    while active and len(seconds):
        solution = np.linalg.lstsq(matrix[:, active] * weights[:, None], np.ones_like(seconds), rcond=None)[0]
        if solution.min() >= 0:
            for column, value in zip(active, solution, strict=True):
                result[column] = float(value)
            break
        active.pop(int(solution.argmin()))
    return result
