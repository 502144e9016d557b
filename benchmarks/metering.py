"""What the meter takes of a step: its own seconds beside the step's, with so many sequences decoding.

    python benchmarks/metering.py [CHECKPOINT] [--rows 1,32,64] [--steps 300]

Each step of a real engine is followed by what the step loop has the meter do for it: its processor time is measured.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--rows", default="1,32,64")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    print("| rows | a step, ms | metering it, us | share |")
    print("|---:|---:|---:|---:|")
    for rows in map(int, options.rows.split(",")):
        step_s, meter_s = measure(options.checkpoint, rows, options.steps)
        print(f"| {rows} | {step_s * 1e3:.2f} | {meter_s * 1e6:.1f} | {meter_s / step_s:.3%} |", flush=True)


def measure(checkpoint: Path | None, rows: int, steps: int) -> tuple[float, float]:
    """Median seconds of a decode step, and the mean of what metering it takes, the sharing out included."""
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

    set_threads(torch.get_num_threads())
    directory = checkpoint or Path(tokenworks.__file__).parent / "embedded"
    settings = EngineSettings(max_running=rows, speculation="off", max_context_tokens=1024)
    engine = build_engine(directory, settings, 1, lambda done, total: None)
    meter = Meter(engine, measure_card(engine, settings, torch.get_num_threads()), Machine(torch.get_num_threads()))
    for index in range(rows):
        prompt = [random.randrange(10, 4000) for _ in range(16)]
        request = Request(f"{index}", "", prompt, Sampling(max_tokens=900, temperature=0))
        engine.add(request)
        meter.arrived(request, time.perf_counter_ns(), publishes=False)
    step_s, meter_s = [], []
    for at in range(steps):
        outputs = engine.step()
        assert engine.last_step is not None
        start = time.thread_time()  # not a neighbour's time
        meter.stepped(engine.last_step, outputs)
        meter.with_reports(outputs)
        meter.turned(is_idle=False)
        if at >= steps // 3:  # by then all decode
            meter_s.append(time.thread_time() - start)
            step_s.append(engine.last_step.seconds)
    return statistics.median(step_s), statistics.mean(meter_s)


if __name__ == "__main__":
    main()
