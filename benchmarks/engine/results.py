"""What a run leaves: every value of every round, as one JSON file. Reports are made from it and can be made again."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.engine.runner import Timing


class Turn(msgspec.Struct, kw_only=True):
    """One variant in one round: a process from start to end."""

    round: int  # from 1
    engine: str
    precision: str
    title: str
    about: dict[str, Any] = {}  # what the engine says of itself: version, weight_bytes, ...
    timings: dict[str, Timing] = {}  # by cell
    skipped: dict[str, str] = {}  # cell -> reason
    error: str = ""  # why the process ended early; empty where it did not


class Run(msgspec.Struct, kw_only=True):
    """Everything that the report says."""

    date: str  # ISO 8601
    command: str
    commit: str
    machine: dict[str, str]
    checkpoint: str
    shape: dict[str, Any]  # see shape.ModelShape
    cells: list[str]
    precisions: list[str]
    ceilings: list[dict[str, float]] = []  # the best of each kind, one entry a round
    tried: list[dict[str, float]] = []  # all that was tried for them
    turns: list[Turn] = []
    notes: list[str] = []

    def timings(self, engine: str, precision: str, cell: str) -> list[Timing]:
        """One for each round that has it."""
        turns = [turn for turn in self.turns if (turn.engine, turn.precision) == (engine, precision)]
        return [turn.timings[cell] for turn in turns if cell in turn.timings]

    def engines(self, precision: str) -> list[str]:
        """Those that took a turn at `precision`, in the order in which they first did in round 1."""
        return list(dict.fromkeys(turn.engine for turn in self.turns if turn.precision == precision))

    def ceiling(self, name: str) -> float | None:
        """Median of the rounds; None where it was not measured."""
        values = [ceilings[name] for ceilings in self.ceilings if name in ceilings]
        return statistics.median(values) if values else None

    def reasons(self) -> list[str]:
        """Why cells are missing, each reason once, for the report."""
        lines = []
        for turn in self.turns:
            lines += [f"{turn.title}, {cell}: {reason}" for cell, reason in turn.skipped.items()]
            lines += [f"{turn.title}: {turn.error}"] if turn.error else []
        return list(dict.fromkeys(lines))


def write_run(run: Run, path: Path) -> None:
    """Write it whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    partial.rename(path)


def read_run(path: Path) -> Run:
    """Read it back; raises msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=Run)
