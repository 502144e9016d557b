"""What the meter takes of a step loop's turn, with so many sequences decoding.

    python -m benchmarks.metering [CHECKPOINT] [--rows 1,32,64] [--turns 1200]

Two figures, in processor time of the loop's thread. The meter's own a turn, everything that the loop has it do, less
what reading the clock takes. And a paired run: blocks of turns with and without it alternate on one engine; the
difference of two blocks that follow each other, with the interval that chance leaves it (`benchmarks.pairs`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.pairs import Difference, difference

if TYPE_CHECKING:
    from tokenworks.engine.engine import Engine
    from tokenworks.worker.meter import Meter

BLOCK = 20  # turns; the first of a metered block does not go on from one that was told: it costs more than usual
PROMPT, WARM_UP = 16, 60


class Found(NamedTuple):
    """Of one number of rows; seconds."""

    step_s: float  # by the wall clock
    meter_s: float
    more: Difference  # of a metered turn to one that is not


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--rows", default="1,32,64")
    parser.add_argument("--turns", type=int, default=1200)
    options = parser.parse_args()
    print("| rows | a step, ms | metering a turn, us | share | paired difference, us | 95 % of it within |")
    print("|---:|---:|---:|---:|---:|---:|")
    for rows in map(int, options.rows.split(",")):
        found = measure(options.checkpoint, rows, options.turns)
        print(
            f"| {rows} | {found.step_s * 1e3:.2f} | {found.meter_s * 1e6:.1f} | {found.meter_s / found.step_s:.2%} "
            f"| {found.more.found * 1e6:+.1f} | {found.more.low * 1e6:+.1f} to {found.more.high * 1e6:+.1f} |",
            flush=True,
        )


def measure(checkpoint: Path | None, rows: int, turns: int) -> Found:
    """One line of the table."""
    engine, meter = build(checkpoint, rows, turns)
    for _ in range(WARM_UP):
        turn(engine, meter)
    steps, metering, pairs = [], [], []
    for _ in range(turns // (2 * BLOCK)):
        blocks = {}
        for each in (None, meter) if len(pairs) % 2 else (meter, None):
            start_s, start = time.perf_counter(), time.thread_time()
            metering += [turn(engine, each) for _ in range(BLOCK)][1:] if each else []
            for _ in range(0 if each else BLOCK):
                turn(engine, None)
            blocks[each is meter] = (time.thread_time() - start) / BLOCK
            steps.append((time.perf_counter() - start_s) / BLOCK)
        pairs.append((blocks[False], blocks[True]))
    return Found(statistics.median(steps), statistics.mean(metering) - clock_s(), difference(pairs))


def clock_s() -> float:
    """What it takes to read the clock twice."""
    return statistics.median(turn_of_nothing() for _ in range(1000))


def turn_of_nothing() -> float:
    start = time.thread_time()
    return time.thread_time() - start


def turn(engine: Engine, meter: Meter | None) -> float:
    """One step, and what the loop has the meter do about it; the processor time of the latter."""
    outputs = engine.step()
    start = time.thread_time()
    if meter is not None and engine.last_step is not None:
        meter.stepped(engine.last_step, outputs)
        meter.with_reports(outputs)
        meter.looked()
        meter.turned(is_idle=False)
    return time.thread_time() - start


def build(checkpoint: Path | None, rows: int, turns: int) -> tuple[Engine, Meter]:
    """An engine in which so many sequences decode, and its meter."""
    from tokenworks.worker.environment import prepare_environment

    prepare_environment()
    import torch

    import tokenworks
    from tokenworks.contract.config import EngineSettings
    from tokenworks.contract.request import Request, Sampling
    from tokenworks.engine.build import build_engine
    from tokenworks.engine.kernels.threads import set_threads
    from tokenworks.worker.machine import Machine
    from tokenworks.worker.measure import measure_card
    from tokenworks.worker.meter import Meter

    threads = torch.get_num_threads()
    set_threads(threads)
    directory = checkpoint or Path(tokenworks.__file__).parent / "embedded"
    settings = EngineSettings(max_running=rows, speculation="off", max_context_tokens=PROMPT + WARM_UP + turns + 9)
    progress: Callable[[int, int], None] = lambda done, total: None  # noqa: E731
    engine = build_engine(directory, settings, 1, progress)
    meter = Meter(engine, measure_card(engine, settings, threads), Machine(threads))
    for index in range(rows):
        prompt = [random.randrange(10, 4000) for _ in range(PROMPT)]
        request = Request(f"{index}", "", prompt, Sampling(max_tokens=WARM_UP + turns + 8, temperature=0))
        engine.add(request)
        meter.arrived(request, time.perf_counter_ns(), publishes=False)
    return engine, meter


if __name__ == "__main__":
    main()
