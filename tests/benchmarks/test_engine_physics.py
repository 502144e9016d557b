"""Bytes, operations and shares, each against a figure worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.engine import physics
from benchmarks.engine.shape import ModelShape, shape_of
from tokenworks.engine.model_config import read_model_config
from tokenworks.engine.random_checkpoint import SHAPES

# 10 wide, 2 layers, 2 query heads and 1 KV head of 5, inner 20, vocabulary 100:
# attention 10 x (2 x 2 + 2 x 1) x 5 = 300; network 3 x 10 x 20 = 600; head 1000; in all 2 x 900 + 1000 = 2800.
SMALL = ModelShape(10, 20, 2, 2, 1, 5, 100)
# The same with 4 experts, 2 a token: router 40; layer 340 + 4 x 600 = 2740; in all 6480; active 2 x 1540 = 3080.
EXPERTS = ModelShape(10, 20, 2, 2, 1, 5, 100, num_experts=4, experts_per_token=2)


def test_parameters_are_counted_once() -> None:
    assert (SMALL.attention_parameters, SMALL.expert_parameters, SMALL.head_parameters) == (300, 600, 1000)
    assert (SMALL.matrix_parameters, SMALL.active_layer_parameters) == (2800, 1800)
    assert (EXPERTS.matrix_parameters, EXPERTS.active_layer_parameters) == (6480, 3080)


def test_qwen3_small_has_the_parameters_that_its_file_has(tmp_path: Path) -> None:
    raw = {**SHAPES["qwen3-0.6b"], "rms_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    shape = shape_of(read_model_config(tmp_path), raw)
    # 28 x (1024 x (2 x 16 + 2 x 8) x 128 + 3 x 1024 x 3072) + 1024 x 151936
    assert shape.matrix_parameters == 595_984_384
    assert shape.stored_parameters == shape.matrix_parameters  # tied
    assert shape.kv_bytes_per_token() == 114_688  # 2 x 28 x 8 x 128 x 2


def test_a_dense_step_reads_every_weight_once_whatever_the_batch() -> None:
    assert physics.weight_bytes_read(SMALL, "bf16", 1, {}) == 5600
    assert physics.weight_bytes_read(SMALL, "int4", 32, {}) == 1400


def test_what_an_engine_says_that_it_holds_counts() -> None:
    assert physics.weight_bytes_read(SMALL, "int4", 1, {"weight_bytes": 1700}) == 1700
    untied = ModelShape(10, 20, 2, 2, 1, 5, 100, is_tied=False)  # 3800 stored, of which 1000 are only looked up
    assert physics.weight_bytes_read(untied, "int8", 1, {"file_bytes": 3800}) == pytest.approx(2800)


def test_experts_that_no_token_picks_are_not_read() -> None:
    assert physics.experts_read(EXPERTS, 1) == 2
    assert physics.experts_read(EXPERTS, 2) == 3  # 4 x (1 - 1/4)
    # 2 x (340 + 2 x 600) + 1000 = 4080 of 6480 parameters
    assert physics.weight_bytes_read(EXPERTS, "bf16", 1, {}) == pytest.approx(8160)


def test_kv_grows_with_batch_and_context_up_to_the_window() -> None:
    # 2 x 1 head x 5 x 2 bytes = 20 a layer and token
    assert physics.kv_bytes_read(SMALL, 8, 100) == 8 * 100 * 2 * 20
    sliding = ModelShape(10, 20, 2, 2, 1, 5, 100, windows=(None, 30))
    assert physics.kv_bytes_read(sliding, 1, 100) == (100 + 30) * 20
    about = {"kv_bytes_per_token": 20}  # 8-bit
    assert physics.decode_bytes_read(SMALL, "bf16", 8, 100, about) == 5600 + 8 * 100 * 20


def test_mbu_is_bytes_over_time_over_the_ceiling() -> None:
    assert physics.mbu(bytes_read=1.2e9, step_s=0.050, read_bytes_per_s=30e9) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("length", "window", "context", "pairs"),
    [(1, None, 0, 1), (4, None, 0, 10), (2, None, 3, 9), (4, 2, 0, 7), (4, 10, 0, 10), (3, 2, 5, 6), (3, 4, 2, 11)],
)
def test_attended_pairs(length: int, window: int | None, context: int, pairs: int) -> None:
    assert physics.attended_pairs(length, window, context) == pairs
    one_by_one = (context + index + 1 for index in range(length))
    assert pairs == sum(seen if window is None else min(seen, window) for seen in one_by_one)


def test_prefill_counts_the_causal_half_and_one_row_of_the_head() -> None:
    # one prompt of 4: 2 x 1800 x 4 + 2 x 1000 + 4 x 2 heads x 5 x 10 pairs x 2 layers = 14400 + 2000 + 800
    assert physics.prefill_operations(SMALL, 1, 4) == 17_200
    assert physics.prefill_operations(SMALL, 3, 4) == 3 * 17_200
    assert physics.mfu(17_200, seconds=2.0, ops_per_s=17_200) == pytest.approx(0.5)


def test_decode_counts_the_head_for_every_sequence() -> None:
    # 2 x (1800 + 1000) + 4 x 2 x 5 x 10 x 2 = 5600 + 800
    assert physics.decode_operations(SMALL, 2, 10) == 2 * 6400


def test_the_floor_is_the_slower_of_reading_and_multiplying() -> None:
    assert physics.floor_s(100, 10, read_bytes_per_s=10, ops_per_s=10) == 10
    assert physics.floor_s(100, 1000, read_bytes_per_s=10, ops_per_s=10) == 100
