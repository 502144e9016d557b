"""Fits a card's two latency models to measured points: least squares with no negative coefficient.

A step never gets faster because there is more to do. Where time allowed fewer points than there are coefficients, the
plainest that explain them are fitted: one slow prompt of 16 tokens says nothing about pairs of tokens, and taken for
these it would make one of 256 tokens 256 times as long.

NumPy only: a worker without an engine of its own fits a card too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenworks.contract.card import Card, DecodePoint, PrefillPoint
from tokenworks.contract.config import EngineSettings


def fitted_card(
    prefill_points: Sequence[PrefillPoint],
    decode_points: Sequence[DecodePoint],
    settings: EngineSettings,
    **described: Any,
) -> Card:
    """The card that these points make; `described` is what else is known of the worker, by the card's field names."""
    prefill, decode = fit_prefill(prefill_points), fit_decode(decode_points)
    return Card(
        prefill_points=tuple(prefill_points),
        decode_points=tuple(decode_points),
        prefill_base_s=prefill[0],
        prefill_per_token_s=prefill[1],
        prefill_per_pair_s=prefill[2],
        decode_base_s=decode[0],
        decode_per_sequence_s=decode[1],
        decode_per_context_token_s=decode[2],
        price_per_hour=settings.price_per_hour or None,
        watts=settings.watts or None,
        **described,
    )


def fit_prefill(points: Sequence[PrefillPoint]) -> list[float]:
    """Base, per token, per (query, key) pair: see Card.prefill_s."""
    rows = [[1.0, p.new_tokens, p.new_tokens * (p.context_tokens + p.new_tokens / 2)] for p in points]
    return fit_non_negative(
        np.array(rows, dtype=float).reshape(-1, 3), np.array([p.seconds for p in points]), (1, 0, 2)
    )


def fit_decode(points: Sequence[DecodePoint]) -> list[float]:
    """Base, per sequence, per context token: see Card.decode_s."""
    rows = [[1.0, p.batch, p.batch * p.context_tokens] for p in points]
    return fit_non_negative(
        np.array(rows, dtype=float).reshape(-1, 3), np.array([p.seconds for p in points]), (0, 2, 1)
    )


def fit_non_negative(
    matrix: NDArray[np.float64], seconds: NDArray[np.float64], plainest_first: Sequence[int]
) -> list[float]:
    """Least squares, relative error, with coefficients >= 0: the most negative one is dropped until none is.

    `plainest_first`: the columns in the order in which they are taken as long as the points tell them apart.
    """
    active = _told_apart(matrix, plainest_first)
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


def _told_apart(matrix: NDArray[np.float64], plainest_first: Sequence[int]) -> list[int]:
    """The columns, plainest first, each of which says something that those before it do not."""
    scaled = matrix / np.maximum(matrix.max(axis=0, initial=0.0), 1e-12)
    taken: list[int] = []
    for column in plainest_first:
        if np.linalg.matrix_rank(scaled[:, [*taken, column]]) > len(taken):
            taken.append(column)
    return taken
