"""Takes turns: in every round the ceilings, then every variant once, each in a process of its own.

The order moves on by one from round to round, so that nobody always has the cool, or the busy, machine. The results are
written after every turn: a run that is broken off keeps what it has.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from benchmarks.engine.cells import parse_cell
from benchmarks.engine.process import EngineProcess
from benchmarks.engine.results import Run, Turn
from benchmarks.engine.runner import Job, Timing, job_arguments, read_line
from benchmarks.engine.variants import ROOT, Variant

GRACE_S: Final = 120.0
"""Beyond the limit that a runner keeps by itself, before it is killed: it cannot break off inside a cell."""

Save = Callable[[], None]


def rotated(variants: Sequence[Variant], number: int) -> list[Variant]:
    """The order of round `number`, from 0."""
    shift = number % max(1, len(variants))
    return [*variants[shift:], *variants[:shift]]


def run_rounds(run: Run, jobs: dict[Variant, Job], rounds: int, save: Save) -> None:
    """Fill `run`, saying each value as it comes."""
    for number in range(rounds):
        _say(f"round {number + 1} of {rounds}: ceilings")
        ceilings = measure_ceilings()
        run.ceilings.append(ceilings["best"])
        run.tried.append(ceilings["tried"])
        _say("  " + ", ".join(f"{name} {value:.3g}" for name, value in ceilings["best"].items()))
        for variant in rotated(list(jobs), number):
            _say(f"round {number + 1} of {rounds}: {variant.title}")
            run.turns.append(take_turn(variant, jobs[variant], number + 1))
            save()


def measure_ceilings() -> dict[str, dict[str, float]]:
    """See ceilings.measure; raises subprocess.CalledProcessError."""
    command = [sys.executable, "-m", "benchmarks.engine.ceilings"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def take_turn(variant: Variant, job: Job, number: int) -> Turn:
    """Run one variant's process; what it measured, and why the rest is missing."""
    turn = Turn(round=number, engine=variant.engine, precision=variant.precision, title=variant.title)
    process = EngineProcess([*variant.command, *job_arguments(job)], job.limit_s + GRACE_S)
    try:
        for line in process.lines():
            _take(turn, line)
        turn.error = process.finish()
    finally:
        process.stop()
    if turn.error:
        _say(f"  {turn.error}")
    return turn


def _take(turn: Turn, line: str) -> None:
    message = read_line(line)
    if message is None:
        return
    if "about" in message:
        turn.about = message["about"]
    if "skipped" in message:
        turn.skipped[message["skipped"]["cell"]] = message["skipped"]["reason"]
        _say(f"  {message['skipped']['cell']}: {message['skipped']['reason']}")
    if "timing" in message:
        timing = msgspec.convert(message["timing"], Timing)
        turn.timings[timing.cell] = timing
        _say(f"  {timing.cell}: {describe(timing)}")


def describe(timing: Timing) -> str:
    """Such as `890.1 tok/s`, and for decode the milliseconds of a step."""
    rate = f"{timing.tokens / timing.seconds:.1f} tok/s"
    cell = parse_cell(timing.cell)
    return rate if cell.is_prefill else f"{rate}, {timing.seconds * cell.batch / timing.tokens * 1e3:.1f} ms a step"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
