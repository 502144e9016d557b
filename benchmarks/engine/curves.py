"""How our cost grows: decode against context and against batch, prefill against length, each beside its floor.

Cost must grow as the physics says: decode by the KV's bytes, flat in the batch until the matrix units fill, prefill by
its operations. A kink that the floor does not have is a fault to explain. One process measures all points, cheapest
first, and stops when its time is up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.engine import physics
from benchmarks.engine.cells import Cell, parse_cell
from benchmarks.engine.results import Run
from benchmarks.engine.runner import Timing
from benchmarks.engine.shape import ModelShape
from benchmarks.engine.standing import overhead

CONTEXTS: Final = (16, 512, 1000, 2000, 4000, 8000, 16_000, 32_000)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
LENGTHS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
LONGEST_OF_EIGHT: Final = 4000  # tokens of context at batch 8: more takes minutes of prefill and shows no more


class Curve(msgspec.Struct, frozen=True):
    """One line of a picture."""

    title: str
    axis: str  # what x counts
    points: dict[int, str]  # x -> cell


class Point(msgspec.Struct, frozen=True):
    """One measured point of a curve."""

    x: int
    seconds: float  # of a step, or of the prefill
    floor_s: float
    overhead: float | None  # share of the time outside the model's calls


def curves(max_context: int) -> list[Curve]:
    """All curves, up to a context of `max_context` tokens."""
    contexts = [length for length in CONTEXTS if length <= max_context]

    def decode(title: str, batch: int, longest: int) -> Curve:
        cells = {length: Cell(False, batch, length).name for length in contexts if length <= longest}
        return Curve(title, "context, tokens", cells)

    return [
        decode("decode step, 1 sequence", 1, max_context),
        decode("decode step, 8 sequences", 8, LONGEST_OF_EIGHT),
        Curve("decode step at 16 tokens", "sequences", {batch: Cell(False, batch, 16).name for batch in BATCHES}),
        Curve(
            "prefill of 1 prompt",
            "length, tokens",
            {length: Cell(True, 1, length).name for length in LENGTHS if length <= max_context},
        ),
    ]


def cells_of(wanted: Sequence[Curve]) -> list[Cell]:
    """Every cell of the curves, once."""
    return [parse_cell(name) for name in dict.fromkeys(name for curve in wanted for name in curve.points.values())]


def floor_s(run: Run, timing: Timing) -> float:
    """Least seconds of the cell's step or prefill that the ceilings allow."""
    cell, shape, turn = parse_cell(timing.cell), msgspec.convert(run.shape, ModelShape), run.turns[0]
    if cell.is_prefill:  # a short prompt reads all weights and multiplies little
        num_bytes = physics.weight_bytes_read(shape, turn.precision, cell.prompt_tokens, turn.about)
        operations = physics.prefill_operations(shape, cell.batch, cell.length)
    else:
        context = timing.context_tokens
        num_bytes = physics.decode_bytes_read(shape, turn.precision, cell.batch, context, turn.about)
        operations = physics.decode_operations(shape, cell.batch, context)
    ops_per_s = max(run.ceilings[0][name] for name in physics.CEILING_OF[turn.precision])
    return physics.floor_s(num_bytes, operations, run.ceilings[0]["read_bytes_per_s"], ops_per_s)


def points_of(run: Run, curve: Curve) -> list[Point]:
    """The measured points of one curve; those that were skipped are missing."""
    timings = run.turns[0].timings
    points = []
    for x, name in curve.points.items():
        if name in timings:
            timing, cell = timings[name], parse_cell(name)
            seconds = timing.seconds if cell.is_prefill else timing.seconds * cell.batch / timing.tokens
            points.append(Point(x, seconds, floor_s(run, timing), overhead([timing])))
    return points


def page(run: Run, wanted: Sequence[Curve], pictures: dict[str, str]) -> str:
    """The report: a table a curve, with its picture where there is one."""
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    found = ", ".join(f"{name} {value:.4g}" for name, value in run.ceilings[0].items())
    parts = [
        f"# {run.date[:10]}: how the engine's cost grows",
        f"```\n{run.command}\n```\n\nCommit {run.commit}; checkpoint {run.checkpoint}; {run.precisions[0]}.\n"
        f"{machine}.\nCeilings: {found}. The floor is what they allow: bytes or operations, whichever takes longer.",
    ]
    for curve in wanted:
        parts.append(f"## {curve.title}\n\n{_table(points_of(run, curve), curve.axis)}")
        if curve.title in pictures:
            parts[-1] += f"\n\n![{curve.title}]({pictures[curve.title]})"
    if missing := [*run.notes, *run.reasons()]:
        parts.append("## Missing, and why\n\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts) + "\n"


def _table(points: Sequence[Point], axis: str) -> str:
    lines = [f"| {axis} | ms | floor, ms | floor / measured | outside the model |", "|---:|---:|---:|---:|---:|"]
    for point in points:
        outside = "-" if point.overhead is None else f"{point.overhead:.1%}"
        milliseconds = f"{point.seconds * 1e3:.1f} | {point.floor_s * 1e3:.1f}"
        lines.append(f"| {point.x} | {milliseconds} | {point.floor_s / point.seconds:.0%} | {outside} |")
    return "\n".join(lines)


def plot(title: str, axis: str, points: Sequence[Point], path: Path) -> None:
    """One picture, both axes logarithmic; raises ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([point.x for point in points], [point.seconds * 1e3 for point in points], "o-", label="measured")
    axes.plot([point.x for point in points], [point.floor_s * 1e3 for point in points], "--", label="floor")
    axes.set(title=title, xlabel=axis, ylabel="milliseconds", xscale="log", yscale="log")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_all(run: Run, wanted: Sequence[Curve], path: Path) -> dict[str, str]:
    """Picture files beside `path`, by the curve's title; none where matplotlib is not installed."""
    pictures = {}
    for number, curve in enumerate(wanted, start=1):
        points = points_of(run, curve)
        if len(points) < 2:
            continue
        picture = path.with_name(f"{path.stem}-{number}.png")
        try:
            plot(curve.title, curve.axis, points, picture)
        except ImportError:
            print("no pictures: pip install 'tokenworks[benchmark]'", file=sys.stderr)
            return {}
        pictures[curve.title] = picture.name
    return pictures
