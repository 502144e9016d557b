"""A card's models from as many points as there was time for."""

from __future__ import annotations

from itertools import product

import pytest

from tokenworks.contract.card import DecodePoint, PrefillPoint
from tokenworks.worker.fit import fit_decode, fit_prefill

PREFILL = (0.05, 2e-3, 1e-6)
DECODE = (0.02, 3e-3, 1e-5)


def prefill_point(new_tokens: int, context_tokens: int = 0) -> PrefillPoint:
    pairs = new_tokens * (context_tokens + new_tokens / 2)
    return PrefillPoint(new_tokens, context_tokens, PREFILL[0] + PREFILL[1] * new_tokens + PREFILL[2] * pairs)


def decode_point(batch: int, context_tokens: int) -> DecodePoint:
    return DecodePoint(batch, context_tokens, DECODE[0] + DECODE[1] * batch + DECODE[2] * batch * context_tokens)


def test_enough_points_give_every_coefficient() -> None:
    assert fit_prefill([prefill_point(n) for n in (16, 128, 512, 1024)]) == pytest.approx(PREFILL)
    points = [decode_point(batch, context) for batch, context in product((1, 8), (16, 512))]
    assert fit_decode(points) == pytest.approx(DECODE)


def test_one_slow_prompt_is_so_slow_a_token() -> None:
    assert fit_prefill([PrefillPoint(16, 0, 4.8)]) == pytest.approx([0.0, 0.3, 0.0])
    assert fit_decode([DecodePoint(1, 16, 4.0)]) == pytest.approx([4.0, 0.0, 0.0])


def test_two_points_make_a_line() -> None:
    assert fit_prefill([PrefillPoint(16, 0, 1.0), PrefillPoint(116, 0, 3.0)]) == pytest.approx([0.68, 0.02, 0.0])
    assert fit_decode([DecodePoint(1, 0, 1.0), DecodePoint(1, 100, 3.0)]) == pytest.approx([1.0, 0.0, 0.02])
    assert fit_decode([DecodePoint(1, 16, 1.0), DecodePoint(1, 16, 1.0)]) == pytest.approx([1.0, 0.0, 0.0])


def test_more_work_never_takes_less_time() -> None:
    falling = [PrefillPoint(16, 0, 2.0), PrefillPoint(128, 0, 1.0), PrefillPoint(512, 0, 0.9)]
    assert min(fit_prefill(falling)) == 0
    assert max(fit_prefill(falling)) > 0


def test_no_points_say_nothing() -> None:
    assert fit_prefill([]) == fit_decode([]) == [0.0, 0.0, 0.0]
