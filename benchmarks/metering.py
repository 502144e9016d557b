"""What the meter takes of a step loop's turn, with so many sequences decoding.

    python benchmarks/metering.py [CHECKPOINT] [--rows 1,32,64] [--turns 1200]

Two figures. The meter's own processor time a turn, everything that the loop has it do. And a paired run: blocks of
turns with and without it alternate on one engine, and their mean wall times are compared; the spread is that of the
same comparison among the blocks without it, so that a difference within it is none.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenworks.engine.engine import Engine
    from tokenworks.worker.meter import Meter

BLOCK = 20  # turns
PROMPT, WARM_UP = 16, 60


class Found(NamedTuple):
    """Of one number of rows; seconds."""

    step_s: float
    meter_s: float
    difference: float  # of a metered turn to one that is not, as a share
    spread: float


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--rows", default="1,32,64")
    parser.add_argument("--turns", type=int, default=1200)
    options = parser.parse_args()
    print("| rows | a step, ms | metering a turn, us of processor | share | paired difference | spread |")
    print("|---:|---:|---:|---:|---:|---:|")
    for rows in map(int, options.rows.split(",")):
        found = measure(options.checkpoint, rows, options.turns)
        print(
            f"| {rows} | {found.step_s * 1e3:.2f} | {found.meter_s * 1e6:.1f} | {found.meter_s / found.step_s:.2%} "
            f"| {found.difference:+.2%} | {found.spread:.2%} |",
            flush=True,
        )


def measure(checkpoint: Path | None, rows: int, turns: int) -> Found:
    """One line of the table."""
    engine, meter = build(checkpoint, rows, turns)
    steps, metering = [], []
    walls: dict[bool, list[float]] = {True: [], False: []}
    for at in range(WARM_UP + turns):
        is_metered = at // BLOCK % 2 == 0 or at < WARM_UP
        start = time.perf_counter()
        cpu_s = turn(engine, meter) if is_metered else turn(engine, None)
        if at >= WARM_UP:
            walls[is_metered].append(time.perf_counter() - start)
            steps.append(walls[is_metered][-1])
            metering += [cpu_s] if is_metered else []
    without = [statistics.median(walls[False][half::2]) for half in (0, 1)]
    return Found(
        statistics.median(steps),
        statistics.mean(metering),
        statistics.median(walls[True]) / statistics.median(walls[False]) - 1,
        abs(without[0] / without[1] - 1),
    )


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
