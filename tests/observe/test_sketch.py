"""Sketches: the quick ways to an encoded one give what the slow one gives, and quantiles keep their error."""

from __future__ import annotations

import numpy as np
import pytest

from tokenworks.observe.sketch import ERROR, Sketch, encode_value, encode_values, merge_encoded

DRAWN = np.random.default_rng(0).lognormal(15, 2, 500)


def counted(values: np.ndarray) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(float(value))
    return sketch


@pytest.mark.parametrize("values", [DRAWN, DRAWN[:1], np.array([]), np.array([0.0, -5.0, 1.0, 1e-9, 1e300])])
def test_encoding_values_at_once_is_counting_them_one_by_one(values: np.ndarray) -> None:
    assert encode_values(values) == counted(values).encode()
    if len(values) == 1:
        assert encode_value(float(values[0])) == encode_values(values)
    assert Sketch.decode(encode_values(values)) == counted(values)


def test_merging_encoded_ones_is_counting_all_of_their_values() -> None:
    parts = [encode_values(part) for part in np.array_split(DRAWN, 7)]
    assert merge_encoded(parts) == Sketch.merged(parts).encode() == encode_values(DRAWN)
    assert merge_encoded([]) == b""
    assert merge_encoded([b"", parts[0]]) == parts[0]
    few = [encode_values(part) for part in np.array_split(DRAWN[:9], 4)]
    assert merge_encoded(few) == Sketch.merged(few).encode() == encode_values(DRAWN[:9])


@pytest.mark.parametrize("length", [9, 900])
def test_what_is_no_sketch_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="buffer"):
        merge_encoded([b"1" * length, b"1234"])


def test_a_count_that_is_too_large_stays_at_the_largest() -> None:
    one = Sketch()
    one.add(5.0, 3 << 30)
    merged = Sketch.decode(merge_encoded([one.encode(), one.encode()]))
    assert len(merged) == 0xFFFFFFFF


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_the_stated_error_of_the_true_ones(share: float) -> None:
    found = Sketch.decode(encode_values(DRAWN)).quantile(share)
    true = np.quantile(DRAWN, share, method="inverted_cdf")
    assert abs(found / true - 1) <= ERROR * 1.0001


@pytest.mark.parametrize(("num_values", "share", "rank"), [(2, 0.99, 2), (2, 0.5, 1), (26, 0.99, 26), (100, 0.07, 7)])
def test_a_percentile_of_few_values_is_one_of_them_and_none_too_small(num_values: int, share: float, rank: int) -> None:
    """Of two requests the P99 is the slower one, not the quicker."""
    values = np.array([2.0**number for number in range(1, num_values + 1)])
    assert Sketch.decode(encode_values(values)).quantile(share) == pytest.approx(2.0**rank, rel=ERROR)
