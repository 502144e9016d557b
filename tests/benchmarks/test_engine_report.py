"""Medians, ratios, shares and bars of a run whose figures are round, and the page that says them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine.bars import BARS, Bar, Goal, judge
from benchmarks.engine.cells import parse_cell
from benchmarks.engine.curves import cells_of, curves, page, points_of
from benchmarks.engine.report import QWEN3_SMALL, summary, table, write_report
from benchmarks.engine.results import Run, Turn, read_run, write_run
from benchmarks.engine.runner import Timing
from benchmarks.engine.shape import ModelShape
from benchmarks.engine.standing import Spread, Standing, spread, stand

SHAPE = ModelShape(1024, 3072, 28, 16, 8, 128, 151_936)  # 595,984,384 parameters: 1.191968768 GB in bf16
KV = 114_688  # bytes a token


def decode(tokens_per_s: float, model_share: float | None = None) -> Timing:
    """64 tokens of one sequence at 51 tokens of context."""
    seconds = 64 / tokens_per_s
    counters = {} if model_share is None else {"model_s": model_share * seconds}
    return Timing("decode 1 at 16", seconds, 64, 51.0, counters)


def prefill(tokens_per_s: float) -> Timing:
    return Timing("prefill 1x512", 512 / tokens_per_s, 512, 0.0, {})


def turn(number: int, engine: str, *timings: Timing, precision: str = "bf16", **fields: Any) -> Turn:
    by_cell = {timing.cell: timing for timing in timings}
    return Turn(round=number, engine=engine, precision=precision, title=engine, timings=by_cell, **fields)


def run(*turns: Turn, **fields: Any) -> Run:
    usual: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00",
        "command": "python -m benchmarks.engine --rounds 3",
        "commit": "abc",
        "machine": {"CPU": "a fine one"},
        "checkpoint": "qwen3",
        "shape": asdict(SHAPE),
        "cells": ["prefill 1x512", "decode 1 at 16"],
        "precisions": ["bf16"],
        "ceilings": [{"read_bytes_per_s": gigabytes * 1e9, "bf16_ops_per_s": 1e12} for gigabytes in (20, 30, 31)],
        "tried": [{"one thread": 19e9, "two threads": 20e9}],
        "turns": list(turns),
    }
    return Run(**(usual | fields))


THREE_ROUNDS = run(
    turn(1, "tokenworks", prefill(300), decode(20, 0.9), about={"version": "1"}),
    turn(1, "openvino", prefill(200), decode(18)),
    turn(1, "vllm", prefill(250), skipped={"decode 1 at 16": "no time is left"}),
    turn(2, "openvino", prefill(100), decode(17)),
    turn(2, "vllm", prefill(240), error="exit code 1: out of memory"),
    turn(2, "tokenworks", prefill(290), decode(22, 0.98)),
    turn(3, "tokenworks", prefill(900), decode(21, 0.97)),
)


def test_the_ratio_is_of_medians_to_the_best_peer() -> None:
    standing = stand(THREE_ROUNDS, "bf16", "prefill 1x512")
    assert standing.rates["tokenworks"] == Spread(pytest.approx(300), pytest.approx(290), pytest.approx(900))
    assert standing.best_peer == "vllm"
    assert standing.ratio == pytest.approx(300 / 245)


def test_shares_are_of_the_median_ceiling() -> None:
    standing = stand(THREE_ROUNDS, "bf16", "decode 1 at 16")
    num_bytes = 1_191_968_768 + 51 * KV
    assert standing.share == pytest.approx(num_bytes * 21 / 30e9)
    assert standing.shares["openvino"] == pytest.approx(num_bytes * 17.5 / 30e9)
    # 2 x 440,401,920 x 512 + 2 x 155,582,464 + 28 x 4 x 16 x 128 x (512 x 513 / 2)
    operations = 450_971_566_080 + 311_164_928 + 30_123_491_328
    assert stand(THREE_ROUNDS, "bf16", "prefill 1x512").share == pytest.approx(operations * 300 / 512 / 1e12)


def test_overhead_is_the_median_share_outside_the_model() -> None:
    assert stand(THREE_ROUNDS, "bf16", "decode 1 at 16").overhead == pytest.approx(0.03)
    assert stand(THREE_ROUNDS, "bf16", "prefill 1x512").overhead is None


def test_without_a_peer_or_without_ours_there_is_no_ratio() -> None:
    assert stand(run(turn(1, "tokenworks", decode(20))), "bf16", "decode 1 at 16").ratio is None
    assert stand(run(turn(1, "vllm", decode(20))), "bf16", "decode 1 at 16").ratio is None


def test_precisions_are_not_mixed() -> None:
    mixed = run(turn(1, "tokenworks", decode(20)), turn(1, "openvino", decode(40), precision="int8"))
    assert stand(mixed, "bf16", "decode 1 at 16").rates.keys() == {"tokenworks"}
    assert stand(mixed, "int8", "decode 1 at 16").rates.keys() == {"openvino"}


def test_the_faster_products_are_the_ceiling_of_quantised_prefill() -> None:
    ceilings = [{"bf16_ops_per_s": 1e12, "int8_ops_per_s": 2e12}]
    turns = [turn(1, "tokenworks", prefill(300), precision=precision) for precision in ("bf16", "int8")]
    found = run(*turns, ceilings=ceilings)
    shares = [stand(found, precision, "prefill 1x512").share or 0.0 for precision in ("bf16", "int8")]
    assert shares[0] == pytest.approx(2 * shares[1])


def test_the_table_shows_medians_spreads_and_what_is_missing() -> None:
    lines = table(THREE_ROUNDS, "bf16").splitlines()
    assert lines[0].startswith("| cell | tokenworks | openvino | vllm | ratio | share |")
    assert lines[2].startswith(
        "| prefill 1x512 | 300.0 (290 to 900) | 150.0 (100 to 200) | 245.0 (240 to 250) | 1.22 |"
    )
    assert lines[3].startswith("| decode 1 at 16 | 21.0 (20 to 22) | 17.5 (17 to 18) | - | 1.20 | 84% | 70% | 3% |")


def test_spread_of_one_value_is_the_value() -> None:
    assert str(spread([12.34])) == "12.3"
    assert str(spread([1234.5])) == "1234"


def standing(ratio: float, share: float, overhead: float = 0.01) -> Standing:
    rates = {"tokenworks": Spread(ratio, ratio, ratio), "vllm": Spread(1.0, 1.0, 1.0)}
    return Standing(parse_cell("decode 1 at 16"), rates, {"tokenworks": share}, overhead)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (standing(1.0, 0.9), ("1.00x", "**missed** by 20%")),
        (standing(1.25, 0.5), ("1.25x", "met")),
        (standing(1.5, 0.5), ("1.50x", "met")),
        (standing(1.5, 0.6), ("1.50x", "met, aim reached")),
        (Standing(parse_cell("decode 1 at 16"), {}, {}, None), ("-", "not measured")),
    ],
)
def test_a_bar_is_met_or_missed_by_how_much(found: Standing, verdict: tuple[str, str]) -> None:
    bar = Bar(("decode 1 at 16",), ("bf16",), Goal("ratio", 1.25), (Goal("ratio", 1.5), Goal("share", 0.6)))
    assert judge(bar, found) == verdict


def test_less_overhead_is_better() -> None:
    bar = Bar(("decode 1 at 16",), ("bf16",), Goal("overhead", 0.05), (Goal("overhead", 0.02),))
    assert judge(bar, standing(1, 1, 0.1)) == ("10%", "**missed** by 100%")
    assert judge(bar, standing(1, 1, 0.03)) == ("3%", "met")
    assert judge(bar, standing(1, 1, 0.02)) == ("2%", "met, aim reached")


def test_every_bar_names_cells_that_exist() -> None:
    assert all(parse_cell(cell).name == cell for bar in BARS for cell in bar.cells)


def test_the_report_says_everything_and_comes_back_from_its_json(tmp_path: Path) -> None:
    write_run(THREE_ROUNDS, tmp_path / "run.json")
    text = write_report(read_run(tmp_path / "run.json"))
    assert text == write_report(THREE_ROUNDS)
    assert "python -m benchmarks.engine --rounds 3" in text
    assert "| streaming read | 30.0 (20.0 to 31.0) GB/s | two threads |" in text
    assert "| prefill 1x512 | bf16 | 1.15x | 1.50x, 60% of the ceiling | 1.22x | met |" in text
    assert "| decode 1 at 16 | bf16 | 85% of the ceiling | 92% of the ceiling | 84% | **missed** by 1% |" in text
    assert "| decode 1 at 16 | bf16 | at most 5% outside kernels |" in text
    assert "- vllm, decode 1 at 16: no time is left" in text
    assert "- vllm: exit code 1: out of memory" in text
    assert "| tokenworks | 1 |" in text
    assert table(THREE_ROUNDS, "bf16") in summary(THREE_ROUNDS)


def test_the_bars_are_for_one_shape() -> None:
    assert (SHAPE.hidden_size, SHAPE.num_layers, SHAPE.num_heads) == QWEN3_SMALL
    other = asdict(ModelShape(2048, 8192, 16, 32, 8, 64, 128_256))
    assert "this is another" in write_report(run(turn(1, "tokenworks", decode(20)), shape=other))


def test_curves_hold_each_point_beside_its_floor() -> None:
    wanted = curves(max_context=512)
    assert [sorted(curve.points) for curve in wanted[:2]] == [[16, 512], [16, 512]]
    assert len(cells_of(wanted)) == len({name for curve in wanted for name in curve.points.values()})
    found = run(turn(1, "tokenworks", decode(20, 0.9), prefill(256)), ceilings=[run().ceilings[1]])
    (point,) = points_of(found, wanted[0])
    assert (point.x, point.seconds) == (16, 0.05)
    assert point.floor_s == pytest.approx((1_191_968_768 + 51 * KV) / 30e9)
    assert point.overhead == pytest.approx(0.1)
    (point,) = points_of(found, wanted[3])
    assert (point.x, point.seconds) == (512, 2.0)
    assert point.floor_s == pytest.approx(481_406_222_336 / 1e12)
    assert "| 512 | 2000.0 | 481.4 | 24% | - |" in page(found, wanted, {"prefill of 1 prompt": "prefill.png"})
    assert "![prefill of 1 prompt](prefill.png)" in page(found, wanted, {"prefill of 1 prompt": "prefill.png"})
