"""OpenVINO behind this project's scheduler against this project's own engine, on one checkpoint, step by step in turns.

    python benchmarks/second_engine.py CHECKPOINT [--quantize int8] [--rounds 3]

Both are loaded with the same settings (bf16 where the CPU has it) and take turns cell by cell, so that a busy minute
meets both. A cell is a batch of random prompts: tokens a second up to every sequence's first, then at the median and at
the fastest decode step. Memory is what loading added to the process, weights packed.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tokenworks.worker.environment import prepare_environment

prepare_environment()

from tokenworks.contract.config import EngineSettings, KVSettings  # noqa: E402
from tokenworks.contract.request import Request, Sampling  # noqa: E402
from tokenworks.engine.build import build_engine  # noqa: E402
from tokenworks.engine.engine import Engine  # noqa: E402
from tokenworks.engine.kernels.threads import set_threads  # noqa: E402
from tokenworks.engine.openvino.build import build_openvino_engine  # noqa: E402
from tokenworks.worker.process import choose_threads, return_free_memory  # noqa: E402

CELLS: Final = ((1, 16), (8, 16), (32, 16), (1, 512), (8, 512), (1, 2048))  # (sequences, prompt tokens)
DECODE_STEPS: Final = 16


@dataclass(frozen=True)
class Turn:
    """One engine's turn at one cell, in tokens per second."""

    prefill: float
    decode: float  # at the median step
    fastest: float  # at the fastest


class Bench:
    """Runs cells on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._random = random.Random(0)
        self._count = 0

    def turn(self, batch: int, prompt_tokens: int) -> Turn:
        """Prefill and decode one batch."""
        self._engine.reset_cache()
        for _ in range(batch):
            self._add(prompt_tokens)
        start_s, done = time.perf_counter(), 0
        while done < batch:
            done += sum(len(output.token_ids) for output in self._engine.step())
        prefill_s = time.perf_counter() - start_s
        steps = []
        while self._engine.has_work:
            start_s = time.perf_counter()
            self._engine.step()
            steps.append(time.perf_counter() - start_s)
        return Turn(batch * prompt_tokens / prefill_s, batch / median(steps), batch / min(steps))

    def _add(self, prompt_tokens: int) -> None:
        self._count += 1
        vocab_size = self._engine.model.config.vocab_size
        prompt = [self._random.randrange(vocab_size) for _ in range(prompt_tokens)]
        sampling = Sampling(max_tokens=DECODE_STEPS, temperature=0)
        self._engine.add(Request(str(self._count), "", prompt, sampling))


def load(directory: Path, settings: EngineSettings) -> dict[str, Bench]:
    """Both engines, warm; says what each took."""
    benches = {}
    for name in ("tokenworks", "OpenVINO"):
        before, start_s = memory_mib(), time.perf_counter()
        if name == "tokenworks":
            engine = build_engine(directory, settings, 2, _ignore)
        else:
            engine = build_openvino_engine(directory, settings, KVSettings(), "CPU", 2, _ignore)
        took_s = time.perf_counter() - start_s
        print(f"{name}: {took_s:.1f} s to load, {memory_mib() - before} MiB, {engine.model.num_bytes >> 20} of weights")
        benches[name] = Bench(engine)
        for cell in ((1, 16), (8, 64)):
            benches[name].turn(*cell)
    return benches


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""


def memory_mib() -> int:
    """Anonymous memory of this process: mapped files do not count."""
    gc.collect()
    return_free_memory()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) >> 10


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--quantize", choices=("none", "int8", "int4"), default="none")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    set_threads(choose_threads(EngineSettings()))
    settings = EngineSettings(quantize=options.quantize, kv_bytes=1 << 30, max_context_tokens=2112, speculation="off")
    benches = load(options.checkpoint, settings)
    print("\n| cell | engine | prefill tok/s | decode tok/s | fastest step, tok/s |\n|---|---|---:|---:|---:|")
    for batch, prompt_tokens in CELLS:
        turns: dict[str, list[Turn]] = {name: [] for name in benches}
        for _ in range(options.rounds):
            for name, bench in benches.items():
                turns[name].append(bench.turn(batch, prompt_tokens))
        for name, taken in turns.items():
            cells = (median(t.prefill for t in taken), median(t.decode for t in taken), max(t.fastest for t in taken))
            print(f"| {batch} x {prompt_tokens} | {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
