"""Names, choice and size of the cells; the measuring loop against an engine whose clock moves by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.engine.cells import CELLS, Cell, cheapest_first, parse_cell, select_cells
from benchmarks.engine.runner import Job, job_arguments, measure, measure_all, read_job, read_line


class SteppedEngine:
    """Each step takes a second; it computes one prompt a step, in order, while earlier sequences decode."""

    def __init__(self, speed: int = 1) -> None:
        self.now = 0.0
        self.speed = speed  # tokens of one sequence in a step
        self.prompts: list[list[int]] = []
        self.counts: list[int] = []
        self.max_tokens = 0
        self.cancelled = 0

    def clock(self) -> float:
        return self.now

    def submit(self, prompts: list[list[int]], max_tokens: int) -> None:
        self.prompts, self.max_tokens = prompts, max_tokens
        self.counts = []

    def step(self) -> list[int]:
        self.now += 1
        given = [index for index in range(len(self.counts)) for _ in range(self.speed)]
        if len(self.counts) < len(self.prompts):
            given.append(len(self.counts))
            self.counts.append(0)
        for index in given:
            self.counts[index] += 1
        return given

    def cancel(self) -> None:
        self.cancelled += 1

    def counters(self) -> dict[str, float]:
        return {"model_s": self.now / 2}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_found_by_its_name(cell: Cell) -> None:
    assert parse_cell(cell.name) == cell
    assert select_cells([cell.name]) == [cell]


def test_the_table_has_the_cells_of_the_bars() -> None:
    names = [cell.name for cell in CELLS]
    assert names[:3] == ["prefill 1x512", "prefill 4x512", "prefill 1x2048"]
    assert {f"decode {batch} at {length}" for batch in (1, 8, 32) for length in (16, 512, 2000)} == set(names[3:])


def test_patterns_choose_cells_once_and_in_order() -> None:
    chosen = [cell.name for cell in select_cells(["decode 1 at *", "decode * at 16", "decode 3 at 7"])]
    assert chosen[:3] == ["decode 1 at 16", "decode 1 at 512", "decode 1 at 2000"]
    assert chosen[3:] == ["decode 8 at 16", "decode 32 at 16", "decode 3 at 7"]


@pytest.mark.parametrize("name", ["decode 8", "prefill 8 at 16", "decode 0 at 16", "*x"])
def test_what_is_no_cell_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match="no cell"):
        select_cells([name])


def test_prompts_are_fresh_and_in_the_vocabulary() -> None:
    cell = Cell(False, 3, 50)
    first, second = (cell.prompts(1000, random.Random(seed)) for seed in (1, 2))
    assert [len(prompt) for prompt in first] == [50, 50, 50]
    assert all(100 <= token < 1000 for prompt in first for token in prompt)
    assert all(one != other for one in first for other in second)


def test_slow_cells_come_last_and_are_timed_for_fewer_steps() -> None:
    ordered = cheapest_first(CELLS)
    assert (ordered[0].name, ordered[-1].name) == ("decode 1 at 16", "decode 32 at 2000")
    assert (ordered[0].steps, ordered[-1].steps) == (64, 32)


def test_prefill_is_the_time_until_every_sequence_has_a_token() -> None:
    engine = SteppedEngine()
    timing = measure(engine, Cell(True, 4, 10), 1000, engine.clock)
    assert (timing.seconds, timing.tokens, timing.counters) == (4.0, 40, {"model_s": 2.0})
    assert engine.cancelled == 1


@pytest.mark.parametrize("speed", [1, 2])
def test_decode_is_timed_while_every_sequence_decodes_and_counts_tokens_not_steps(speed: int) -> None:
    engine = SteppedEngine(speed)
    timing = measure(engine, Cell(False, 4, 1000), 2000, engine.clock)
    assert timing.tokens == 4 * 64
    assert timing.tokens / timing.seconds == 4 * speed
    # Timing starts when the last sequence has 3 tokens; one that came i steps earlier is i steps ahead of it. Over the
    # timed steps each gets 64 more, so that 32 is the average.
    assert timing.context_tokens == 1000 + 3 + speed * (0 + 1 + 2 + 3) / 4 + 32


def test_a_sequence_that_ends_while_timed_is_an_error() -> None:
    engine = SteppedEngine(speed=100)
    with pytest.raises(RuntimeError, match="a sequence ended"):
        measure(engine, Cell(False, 1, 16), 1000, engine.clock)


def job(**fields: Any) -> Job:
    usual: dict[str, Any] = {
        "model": "/models/a b",
        "precision": "bf16",
        "vocab_size": 1000,
        "cells": [Cell(True, 1, 600), Cell(False, 2, 16)],
        "threads": 2,
        "limit_s": 60.0,
        "settings": {"quantize": "int8"},
    }
    return Job(**(usual | fields))


def test_a_job_survives_its_command_line() -> None:
    assert read_job(job_arguments(job())) == job()


def test_kv_and_window_hold_the_largest_cell() -> None:
    cells = [Cell(False, 32, 2000), Cell(True, 1, 4000)]
    assert job(cells=cells).max_batch == 32
    assert job(cells=cells).window_tokens == 4001
    assert job(cells=cells).kv_tokens >= 32 * cells[0].window_tokens


def test_cells_that_the_time_does_not_allow_are_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    measure_all(SteppedEngine(), job(), deadline=0.0)
    found = [read_line(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [
        {"skipped": {"cell": "decode 2 at 16", "reason": "no time is left"}},
        {"skipped": {"cell": "prefill 1x600", "reason": "no time is left"}},
    ]


def test_an_engines_own_output_is_not_taken_for_ours() -> None:
    assert read_line("decode 1 at 16: 20 tok/s\n") is None
