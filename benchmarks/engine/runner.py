"""Runs the cells on one engine, in a process of its own, and prints a JSON line for each as it comes.

An engine is a `Session`: prompts go in, `step` says which sequences got a token. Prefill is the time from `submit`
until every sequence has its first token. Decode is timed from a moment when every sequence decodes, for `Cell.steps`
tokens a sequence, and before any of them ends; so prompts, which take minutes in the long cells, cost no accuracy.

Runs inside the peers' environments: standard library only.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from benchmarks.engine.cells import Cell, cheapest_first, parse_cell

MARK: Final = "@cell "
"""Starts our lines on stdout: engines print there too."""
SETTLE_STEPS: Final = 2
"""Steps after the last first token that are not timed: an engine that schedules ahead still holds a prefill step."""
WARM_UP: Final = (Cell(True, 1, 64), Cell(False, 1, 8))


class Session(Protocol):
    """One engine, loaded."""

    def submit(self, prompts: list[list[int]], max_tokens: int) -> None:
        """Start one sequence a prompt, greedy, end-of-sequence ignored; nothing else runs."""

    def step(self) -> list[int]:
        """Wait for tokens; the index of the sequence of each."""

    def cancel(self) -> None:
        """End what still runs; returns when the engine is idle."""

    def counters(self) -> dict[str, float]:
        """Seconds that only ever grow, by what they were spent on; may be empty."""


@dataclass(frozen=True)
class Job:
    """What a runner is asked."""

    model: str  # directory or file, as this engine reads it
    precision: str
    vocab_size: int
    cells: list[Cell]
    threads: int
    limit_s: float  # for all cells, loading included
    settings: dict[str, str] = field(default_factory=dict)  # of our engine

    @property
    def max_batch(self) -> int:
        """Sequences at once."""
        return max(cell.batch for cell in self.cells)

    @property
    def window_tokens(self) -> int:
        """Longest sequence."""
        return max(cell.window_tokens for cell in [*self.cells, *WARM_UP])

    @property
    def kv_tokens(self) -> int:
        """KV slots that the largest cell fills, with a block of 64 to spare for each sequence."""
        return max(cell.batch * (cell.window_tokens + 64) for cell in [*self.cells, *WARM_UP])


@dataclass(frozen=True)
class Timing:
    """One cell, once."""

    cell: str
    seconds: float
    tokens: int  # prompt tokens in prefill, output tokens in decode
    context_tokens: float  # of a sequence, on average over the timed steps; 0 in prefill
    counters: dict[str, float]  # what the session's grew by meanwhile


def run(load: Callable[[Job], tuple[Session, dict[str, Any]]]) -> None:
    """A runner's main: load the engine that the command line asks for, say what it is, measure every cell."""
    started = time.perf_counter()
    job = read_job(sys.argv[1:])
    session, about = load(job)
    say(about=about | {"load_s": round(time.perf_counter() - started, 1)})
    for cell in WARM_UP:
        measure(session, cell, job.vocab_size)
    measure_all(session, job, started + job.limit_s)


def measure_all(session: Session, job: Job, deadline: float) -> None:
    """Every cell that the time allows, cheapest first; the others are named with the reason."""
    prefill_rate = 0.0  # tokens/s, the latest
    for cell in cheapest_first(job.cells):
        left = deadline - time.perf_counter()
        needed = cell.prompt_tokens / prefill_rate if prefill_rate else 0.0
        if needed >= left:
            reason = f"its prompts would take {needed:.0f} s, {left:.0f} are left" if left > 0 else "no time is left"
            say(skipped={"cell": cell.name, "reason": reason})
            continue
        start = time.perf_counter()
        timing = measure(session, cell, job.vocab_size)
        say(timing=asdict(timing))
        if cell.is_prefill and cell.length >= 512:
            prefill_rate = cell.prompt_tokens / (time.perf_counter() - start)


def measure(session: Session, cell: Cell, vocab_size: int, clock: Callable[[], float] = time.perf_counter) -> Timing:
    """One cell."""
    prompts = cell.prompts(vocab_size, random.Random())
    timing = _prefill(session, cell, prompts, clock) if cell.is_prefill else _decode(session, cell, prompts, clock)
    session.cancel()
    return timing


def _prefill(session: Session, cell: Cell, prompts: list[list[int]], clock: Callable[[], float]) -> Timing:
    before, start = session.counters(), clock()
    session.submit(prompts, cell.max_tokens)
    _step_until(session, [0] * cell.batch, lambda counts: min(counts) >= 1)
    seconds = clock() - start
    return Timing(cell.name, seconds, cell.prompt_tokens, 0.0, _growth(before, session.counters()))


def _decode(session: Session, cell: Cell, prompts: list[list[int]], clock: Callable[[], float]) -> Timing:
    session.submit(prompts, cell.max_tokens)
    counts = _step_until(session, [0] * cell.batch, lambda counts: min(counts) >= 1 + SETTLE_STEPS)
    first, before, start = list(counts), session.counters(), clock()
    wanted = sum(first) + cell.batch * cell.steps
    _step_until(session, counts, lambda counts: sum(counts) >= wanted)
    seconds, after = clock() - start, session.counters()
    if max(counts) >= cell.max_tokens:
        raise RuntimeError(f"{cell.name}: a sequence ended while timed: the engine takes less than CHUNK_TOKENS a step")
    context_tokens = cell.length + (sum(first) + sum(counts)) / 2 / cell.batch
    return Timing(cell.name, seconds, sum(counts) - sum(first), context_tokens, _growth(before, after))


def _step_until(session: Session, counts: list[int], is_done: Callable[[list[int]], bool]) -> list[int]:
    """Step, counting each sequence's tokens in `counts`."""
    while not is_done(counts):
        for index in session.step():
            counts[index] += 1
    return counts


def _growth(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def say(**message: Any) -> None:
    """One line to the process that started this one."""
    print(MARK + json.dumps(message), flush=True)


def read_line(line: str) -> dict[str, Any] | None:
    """What `say` printed; None for an engine's own output."""
    return json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else None


def job_arguments(job: Job) -> list[str]:
    """The command line that `read_job` reads."""
    given = {"model": job.model, "precision": job.precision, "vocab-size": job.vocab_size, "threads": job.threads}
    words = [f"--{name}={value}" for name, value in given.items()]
    words += [f"--limit-s={job.limit_s}", f"--settings={json.dumps(job.settings)}"]
    return [*words, "--cells", *(cell.name for cell in job.cells)]


def read_job(words: Iterable[str]) -> Job:
    """The job of a command line."""
    parser = argparse.ArgumentParser()
    for name, kind in (("model", str), ("precision", str), ("vocab-size", int), ("threads", int), ("limit-s", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--cells", type=parse_cell, nargs="+", required=True)
    return Job(**vars(parser.parse_args(list(words))))
