"""Where this engine stands in a cell at a precision: medians, the ratio to the best peer, shares of the ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.engine import physics
from benchmarks.engine.cells import Cell, parse_cell
from benchmarks.engine.results import Run
from benchmarks.engine.runner import Timing
from benchmarks.engine.shape import ModelShape
from benchmarks.engine.variants import OURS


@dataclass(frozen=True, slots=True)
class Spread:
    """Tokens/s of one engine over the rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        digits = 0 if self.median >= 1000 else 1
        if self.least == self.most:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.least:.0f} to {self.most:.0f})"


@dataclass(frozen=True, slots=True)
class Standing:
    """One line of a table. None is what could not be measured or compared."""

    cell: Cell
    rates: dict[str, Spread]  # engine -> tokens/s; engines without a value are missing
    shares: dict[str, float]  # engine -> MBU or MFU of its median
    overhead: float | None  # share of our step outside the model's call

    @property
    def best_peer(self) -> str | None:
        """The fastest engine that is not ours."""
        peers = [engine for engine in self.rates if engine != OURS]
        return max(peers, key=lambda engine: self.rates[engine].median) if peers else None

    @property
    def ratio(self) -> float | None:
        """Our median over the best peer's."""
        if self.best_peer is None or OURS not in self.rates:
            return None
        return self.rates[OURS].median / self.rates[self.best_peer].median

    @property
    def share(self) -> float | None:
        """Ours, of the ceiling."""
        return self.shares.get(OURS)


def spread(rates: Sequence[float]) -> Spread:
    """Median, least and most of one or more values."""
    return Spread(statistics.median(rates), min(rates), max(rates))


def rate(timing: Timing) -> float:
    """Tokens/s."""
    return timing.tokens / timing.seconds


def stand(run: Run, precision: str, name: str) -> Standing:
    """The line of one cell."""
    cell, shape = parse_cell(name), msgspec.convert(run.shape, ModelShape)
    rates: dict[str, Spread] = {}
    shares: dict[str, float] = {}
    for engine in run.engines(precision):
        timings = run.timings(engine, precision, name)
        if not timings:
            continue
        rates[engine] = spread([rate(timing) for timing in timings])
        share = _share(run, shape, precision, cell, rates[engine].median, timings, _about(run, engine, precision))
        if share is not None:
            shares[engine] = share
    return Standing(cell, rates, shares, overhead(run.timings(OURS, precision, name)))


def overhead(timings: Sequence[Timing]) -> float | None:
    """Median share of the time outside the model's calls: scheduling, batching, sampling. None where not counted."""
    shares = [1 - timing.counters["model_s"] / timing.seconds for timing in timings if "model_s" in timing.counters]
    return statistics.median(shares) if shares else None


def _about(run: Run, engine: str, precision: str) -> dict[str, Any]:
    turns = [turn for turn in run.turns if (turn.engine, turn.precision) == (engine, precision) and turn.about]
    return turns[0].about if turns else {}


def _share(
    run: Run,
    shape: ModelShape,
    precision: str,
    cell: Cell,
    tokens_per_s: float,
    timings: Sequence[Timing],
    about: dict[str, Any],
) -> float | None:
    if cell.is_prefill:
        ceilings = [value for name in physics.CEILING_OF[precision] if (value := run.ceiling(name)) is not None]
        operations = physics.prefill_operations(shape, cell.batch, cell.length)
        return physics.mfu(operations, cell.prompt_tokens / tokens_per_s, max(ceilings)) if ceilings else None
    read = run.ceiling("read_bytes_per_s")
    if read is None:
        return None
    context = statistics.median(timing.context_tokens for timing in timings)
    num_bytes = physics.decode_bytes_read(shape, precision, cell.batch, context, about)
    return physics.mbu(num_bytes, cell.batch / tokens_per_s, read)
