"""The sampler's kernels, each against a slow definition in float64, over rows of every kind and awkward sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tokenworks.engine.kernels import sampling
from tokenworks.engine.kernels.boundary import boundary, keep
from tokenworks.engine.kernels.logprobs import log_probabilities
from tokenworks.engine.kernels.row_scan import collect, powers
from tokenworks.engine.kernels.sampling import SETTINGS, choose

Array = NDArray[Any]
SIZES = (1, 2, 7, 127, 1023, 1024, 1025, 5003)
KINDS = ("normal", "peaked", "flat", "equal", "ties", "ruled out", "one left")
TRUNCATIONS: tuple[dict[str, float], ...] = (
    {},
    {"top_p": 0.9},
    {"top_p": 1e-9},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 1500},
    {"top_k": 1 << 31},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"min_p": 0.02, "top_k": 40},
    {"min_p": 0.02, "top_p": 0.8},
    {"top_k": 20, "top_p": 0.7},
    {"min_p": 0.001, "top_k": 700, "top_p": 0.95},
)


def row_of(kind: str, size: int) -> Array:
    """Float32 logits."""
    random = np.random.default_rng(size)
    row = random.standard_normal(size).astype(np.float32)
    if kind == "peaked":
        row[random.integers(size, size=5)] += 12
    if kind == "flat":
        row *= np.float32(1e-3)
    if kind == "equal":
        row[:] = -3
    if kind == "ties":
        row = np.round(row * 2) / 2
    if kind == "ruled out":
        row[random.random(size) < 0.5] = -np.inf
    if kind == "one left":
        row[:] = -np.inf
        row[size // 2] = 1e30
    return row


def settings_of(uniforms: Array, temperature: float, min_p: float = 0, top_k: int = 0, top_p: float = 1) -> Array:
    """SETTINGS of a row each."""
    return np.array([(temperature, min_p, top_k, top_p, uniform) for uniform in uniforms], SETTINGS)


def weights_of(row: Array, temperature: float, min_p: float = 0, top_k: int = 0, top_p: float = 1) -> Array:
    """What each token is drawn in proportion to: the definition, with a sort."""
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    falling = np.argsort(-row, kind="stable")
    ranked = weights[falling]
    ranked[ranked < min_p] = 0
    if top_k:
        ranked[top_k:] = 0
    ranked[1:][(ranked.cumsum() - ranked)[1:] >= top_p * ranked.sum()] = 0
    weights[falling] = ranked
    return weights


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_the_inverse_transform_of_what_truncation_leaves(kind: str, size: int) -> None:
    row = row_of(kind, size)
    uniforms = np.append(np.random.default_rng(1).random(6), [0.0, 1 - 2**-53])
    for temperature in (1e-300, 1e-3, 0.7, 1.0, 2.0, 1e4):
        for truncation in TRUNCATIONS:
            tokens = choose(np.tile(row, (len(uniforms), 1)), settings_of(uniforms, temperature, **truncation))
            weights = weights_of(row, temperature, **truncation)
            above = weights.cumsum() / weights.sum()
            for uniform, token in zip(uniforms, tokens, strict=True):
                case = (temperature, truncation, uniform, token)
                assert above[token] - weights[token] / weights.sum() - 1e-5 <= uniform <= above[token] + 1e-5, case
                assert row[token] > -np.inf, case


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_what_is_kept_is_drawn_and_nothing_else(truncation: dict[str, float]) -> None:
    row = np.round(row_of("normal", 600) * 8) / 8  # many ties: the first of them are kept
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    tokens = choose(np.tile(row, (len(uniforms), 1)), settings_of(uniforms, 2.0, **truncation))
    weights = weights_of(row, 2.0, **truncation)
    share = np.bincount(tokens, minlength=600) / len(uniforms)
    assert set(np.flatnonzero(share)) == set(np.flatnonzero(weights))
    assert np.abs(share - weights / weights.sum()).max() < 2 / len(uniforms)


def test_frequencies_of_a_truncated_draw_pass_a_chi_square_test() -> None:
    row = row_of("normal", 3000)
    uniforms = np.random.default_rng(7).random(20_000)
    tokens = choose(np.tile(row, (len(uniforms), 1)), settings_of(uniforms, 0.5, top_k=64, top_p=0.95))
    weights = weights_of(row, 0.5, top_k=64, top_p=0.95)
    expected = weights[weights > 0] / weights.sum() * len(uniforms)
    found = np.bincount(tokens, minlength=3000)[weights > 0]
    assert found.sum() == len(uniforms)
    degrees = len(expected) - 1
    assert ((found - expected) ** 2 / expected).sum() < degrees + 4 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_first_of_the_largest(kind: str, size: int) -> None:
    row = row_of(kind, size)
    assert choose(row[None], settings_of(np.zeros(1), 0.0)) == [int(row.argmax())]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_are_no_distribution_give_a_token(temperature: float) -> None:
    rows = np.zeros((4, 2000), np.float32)
    rows[0], rows[1], rows[2, 1500], rows[3, 1200] = np.nan, -np.inf, np.inf, np.nan
    rows[3, 1999] = 200
    for truncation in TRUNCATIONS:
        assert choose(rows, settings_of(np.full(4, 0.5), temperature, **truncation)) == [0, 0, 1500, 1999]


def test_a_row_gives_the_same_token_alone_in_a_batch_and_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((24, 20_011)).astype(np.float32)
    settings = np.concatenate(
        [settings_of(random.random(1), (i % 3) * 0.5, **TRUNCATIONS[i % len(TRUNCATIONS)]) for i in range(24)]
    )
    alone = [choose(rows[i : i + 1], settings[i : i + 1])[0] for i in range(24)]
    monkeypatch.setattr(sampling, "SERIAL_ELEMENTS", rows.size + 1)
    assert choose(rows, settings) == alone
    monkeypatch.setattr(sampling, "SERIAL_ELEMENTS", 0)
    assert choose(rows, settings) == alone
    assert choose(rows[::-1].copy(), settings[::-1].copy()) == alone[::-1]


def test_powers_of_two_are_exact_to_float32() -> None:
    x = np.concatenate([np.linspace(-120, 0, 30_001), [-(2.0**-k) for k in range(30)]]).astype(np.float32)
    found = powers(x, np.float32(0), np.float32(1))
    np.testing.assert_allclose(found, np.exp2(x.astype(np.float64)), rtol=2e-7)
    assert powers(np.float32([0, -126, -200, -np.inf, np.nan]), np.float32(0), np.float32(1)).tolist() == [
        1,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_boundary_is_where_a_stable_sort_reaches_the_limit(kind: str) -> None:
    random = np.random.default_rng(5)
    for size in SIZES:
        values = row_of(kind, size)
        values = values[values > -np.inf]
        weights = random.integers(1, 9, len(values)).astype(np.float32)
        weights[:] = weights[0] if kind in ("equal", "ties") else weights  # equals weigh the same
        falling = np.argsort(-values, kind="stable")
        before = weights[falling].cumsum() - weights[falling]
        for limit in (0.0, 1.0, weights.sum() / 3, float(weights.sum()), 1e12):
            token_ids = np.arange(len(values), dtype=np.int32)
            kept = keep(values.copy(), token_ids, *boundary(values, weights, float(limit)))
            expected = sorted(falling[(before < limit) | (np.arange(len(values)) == 0)])
            assert token_ids[:kept].tolist() == expected


def test_collecting_keeps_the_order() -> None:
    for size in SIZES:
        row = row_of("normal", size)
        for floor in (-np.inf, -1.0, 0.0, 1.5, 9.0):
            token_ids, values = collect(row, np.float32(floor))
            assert token_ids.tolist() == np.flatnonzero(row >= np.float32(floor)).tolist()
            assert values.tolist() == row[token_ids].tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_the_softmax(kind: str, size: int) -> None:
    row = row_of(kind, size)
    rows = np.stack([np.zeros_like(row), row, row[::-1]])
    which = np.array([1, 2, 1, 2])
    token_ids = np.array([row.argmax(), size - 1, 0, 0])
    with np.errstate(over="ignore", invalid="ignore"):
        exact = row - row.max() - np.log(np.exp(row.astype(np.float64) - row.max()).sum())
    for count in (0, 1, 20):
        chosen, top_ids, top = log_probabilities(rows, which, token_ids, count)
        np.testing.assert_allclose(chosen, exact[[row.argmax(), 0, 0, size - 1]], rtol=1e-5, atol=1e-6)
        falling = [token for token in np.argsort(-row, kind="stable") if row[token] > -np.inf][:count]
        assert top_ids[0].tolist() == falling + [-1] * (min(count, size) - len(falling))
        np.testing.assert_allclose(top[0, : len(falling)], exact[falling], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_row_with_an_infinite_logit_comes_to_an_end(size: int) -> None:
    rows = np.zeros((2, size), np.float32)
    rows[0, size // 2] = np.inf
    chosen, top_ids, _ = log_probabilities(rows, np.array([0, 1]), np.array([0, 0]), 3)
    assert np.isnan(chosen[0]) or chosen[0] == -np.inf
    assert set(top_ids[0].tolist()) == {-1}
    assert top_ids[1].tolist() == list(range(min(3, size)))


def test_log_probabilities_are_the_same_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).standard_normal((4, 3001)).astype(np.float32)
    which, token_ids = np.array([0, 2, 3]), np.array([5, 3000, 17])
    alone = log_probabilities(rows, which, token_ids, 5)
    monkeypatch.setattr("tokenworks.engine.kernels.logprobs.SERIAL_ELEMENTS", 0)
    for a, b in zip(alone, log_probabilities(rows, which, token_ids, 5), strict=True):
        np.testing.assert_array_equal(a, b)
