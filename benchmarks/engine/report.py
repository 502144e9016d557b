"""The report of a run, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import msgspec

from benchmarks.engine.bars import BARS, Bar, judge
from benchmarks.engine.results import Run
from benchmarks.engine.shape import ModelShape
from benchmarks.engine.standing import Standing, stand
from benchmarks.engine.variants import TITLES

QWEN3_SMALL = (1024, 28, 16)  # hidden size, layers, heads: the shape that the bars are for


def write_report(run: Run) -> str:
    """All of it."""
    parts = [
        f"# {run.date[:10]}: the engine beside its peers",
        head(run),
        "## Ceilings\n\n" + ceilings(run),
        *(f"## {precision}\n\n{table(run, precision)}" for precision in run.precisions if run.engines(precision)),
        READING,
        "## Bars\n\n" + bars(run),
    ]
    if missing := [*run.notes, *run.reasons()]:
        parts.append("## Missing, and why\n\n" + "\n".join(f"- {line}" for line in missing))
    return "\n\n".join(parts) + "\n"


READING = """Tokens per second: the median of the rounds (least to most). The ratio is ours to the best peer's, at the
same precision. The share is of the measured ceiling: in prefill MFU, operations over what matrix products reach; in
decode MBU, weights and KV over what a streaming read reaches. For peers the weights are those of the file that they
load, and KV counts as 16-bit (OpenVINO keeps it in 8 by default). Decode is timed while every sequence decodes, prompts
not included; prompts are random token ids, so nothing is found in a cache. Outside the model is the share of our step
spent on scheduling, batching and sampling."""


def head(run: Run) -> str:
    """The command, the commit, the machine, the versions."""
    shape = msgspec.convert(run.shape, ModelShape)
    lines = [
        f"```\n{run.command}\n```\n",
        f"Commit {run.commit}, started {run.date}. Checkpoint {run.checkpoint}: {shape.num_layers} layers, hidden size "
        f"{shape.hidden_size}, {shape.matrix_parameters / 1e6:.0f} M matrix parameters.\n",
        "| machine | |\n|---|---|",
        *(f"| {name} | {value} |" for name, value in run.machine.items()),
        "\n| engine | version |\n|---|---|",
        *(f"| {title} | {version} |" for title, version in versions(run).items()),
    ]
    return "\n".join(lines)


def versions(run: Run) -> dict[str, str]:
    """Engine -> version, as each said."""
    return {TITLES[turn.engine]: str(turn.about["version"]) for turn in run.turns if "version" in turn.about}


def ceilings(run: Run) -> str:
    """The table of ceilings: median of the rounds, and what reached it."""
    if not run.ceilings:
        return "Not measured."
    lines = ["| ceiling | median of the rounds (least to most) | best way, in round 1 |", "|---|---:|---|"]
    for name in run.ceilings[0]:
        values = [entry[name] / 1e9 for entry in run.ceilings]
        kind, unit = (
            ("streaming read", "GB/s") if name == "read_bytes_per_s" else (f"{name.split('_')[0]} products", "GOP/s")
        )
        way = best_way(run.tried[0], run.ceilings[0][name]) if run.tried else ""
        lines.append(
            f"| {kind} | {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) {unit} | {way} |"
        )
    return "\n".join(lines)


def best_way(tried: dict[str, float], value: float) -> str:
    """What reached a ceiling's value."""
    return next((name for name, found in tried.items() if found == value), "")


def table(run: Run, precision: str) -> str:
    """One line a cell."""
    engines = sorted(run.engines(precision), key=list(TITLES).index)
    titles = {turn.engine: turn.title for turn in run.turns if turn.precision == precision}
    columns = [
        "cell",
        *(titles[engine] for engine in engines),
        "ratio",
        "share",
        "best peer's share",
        "outside the model",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for name in run.cells:
        lines.append("| " + " | ".join(row(stand(run, precision, name), engines)) + " |")
    return "\n".join(lines)


def row(standing: Standing, engines: list[str]) -> list[str]:
    """The fields of one line; '-' is what is missing."""
    peer = standing.best_peer
    rates = [str(standing.rates[engine]) if engine in standing.rates else "-" for engine in engines]
    shares = [standing.share, standing.shares.get(peer) if peer else None, standing.overhead]
    ratio = "-" if standing.ratio is None else f"{standing.ratio:.2f}"
    return [standing.cell.name, *rates, ratio, *("-" if share is None else f"{share:.0%}" for share in shares)]


def bars(run: Run) -> str:
    """Every bar that the run has cells for, met or missed."""
    shape = msgspec.convert(run.shape, ModelShape)
    if (shape.hidden_size, shape.num_layers, shape.num_heads) != QWEN3_SMALL:
        return "The bars are for the Qwen3-0.6B shape; this is another."
    lines = ["| cell | precision | at least | aim | found | |", "|---|---|---|---|---:|---|"]
    lines += [line for bar in BARS for line in _bar_lines(run, bar)]
    return "\n".join(lines)


def _bar_lines(run: Run, bar: Bar) -> Iterator[str]:
    for precision in bar.precisions:
        for cell in bar.cells:
            if precision in run.precisions and cell in run.cells:
                found, verdict = judge(bar, stand(run, precision, cell))
                aims = ", ".join(map(str, bar.aims))
                yield f"| {cell} | {precision} | {bar.least} | {aims} | {found} | {verdict} |"


def summary(run: Run) -> str:
    """The tables alone, for a terminal."""
    parts = [f"{precision}\n{table(run, precision)}" for precision in run.precisions if run.engines(precision)]
    return "\n\n".join([ceilings(run), *parts])
