"""The command line: `run` (the default), `curves`, `report` and `install`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.engine import checkpoints, install
from benchmarks.engine.cells import QUICK, Cell, select_cells
from benchmarks.engine.ours import missing_setting
from benchmarks.engine.results import Run, read_run, write_run
from benchmarks.engine.runner import Job
from benchmarks.engine.variants import OURS, PEERS, PRECISIONS, ROOT, Variant, find_variants

CACHE = Path("~/.cache/tokenworks").expanduser()
REPORTS = ROOT / "benchmarks" / "reports"
COMMANDS = ("run", "curves", "report", "install")


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and do it; a user's mistake ends with one line on stderr."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or (words[0] not in COMMANDS and words[0] not in ("-h", "--help")):
        words = ["run", *words]
    options = build_parser().parse_args(words)
    from tokenworks.contract.errors import TokenworksError

    try:
        options.do(options)
    except (TokenworksError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


def build_parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run", help="measure this engine and its peers; what happens without a command")
    _add_model_flags(measure)
    measure.add_argument("--precision", default="bf16", help="comma-separated: bf16,int8,int4 (default: bf16)")
    measure.add_argument("--cells", default="*", help="comma-separated, with * and ?: 'prefill *,decode 1 at 16'")
    measure.add_argument("--engines", default="*", help=f"comma-separated: {OURS},{','.join(PEERS)} (default: all)")
    measure.add_argument("--rounds", type=int, default=3, help="turns of each engine (default: 3)")
    measure.add_argument("--quick", action="store_true", help="one round of the five cheapest telling cells")
    measure.add_argument("--limit-s", type=float, default=1200.0, help="seconds of one turn of one engine (1200)")
    measure.set_defaults(do=_run)
    curves = commands.add_parser("curves", help="this engine alone: cost against context, batch and length")
    _add_model_flags(curves)
    curves.add_argument("--max-context", type=int, default=32_000, help="longest context in tokens (32000)")
    curves.add_argument("--limit-s", type=float, default=3600.0, help="seconds for all points (3600)")
    curves.add_argument("--precision", default="bf16", choices=PRECISIONS)
    curves.set_defaults(do=_curves)
    again = commands.add_parser("report", help="write a run's report again from its JSON")
    again.add_argument("json", type=Path)
    again.set_defaults(do=_report)
    make = commands.add_parser("install", help="make the peers' environments")
    make.add_argument("names", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)} (default: all)")
    make.add_argument("--peers", type=_path, default=CACHE / "peers")
    make.set_defaults(do=_install)
    return parser


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=_path, nargs="?", help="a checkpoint's folder; none: a random one of --shape"
    )
    parser.add_argument("--shape", default="qwen3-0.6b", help="of the random checkpoint: qwen3-0.6b, llama-3.2-1b, ...")
    parser.add_argument("--cache", type=_path, default=CACHE, help=f"folder of models and conversions ({CACHE})")
    parser.add_argument("--peers", type=_path, default=CACHE / "peers", help="folder of the peers' environments")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every engine (all cores)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an engine setting of ours")
    parser.add_argument(
        "--out", type=_path, default=REPORTS, help=f"folder of the report ({REPORTS.relative_to(ROOT)})"
    )


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _run(options: argparse.Namespace) -> None:
    from benchmarks.engine.report import summary, write_report
    from benchmarks.engine.rounds import run_rounds

    cells = list(QUICK) if options.quick else select_cells(options.cells.split(","))
    variants, notes = _variants(options)
    checkpoint = options.checkpoint or checkpoints.ensure_checkpoint(options.cache, options.shape)
    run = _new_run(options, checkpoint, cells, notes)
    jobs = _jobs(options, run, variants, checkpoint, cells)
    path = free_path(options.out, run.date[:10], "engine")
    run_rounds(run, jobs, 1 if options.quick else options.rounds, lambda: write_run(run, path))
    path.with_suffix(".md").write_text(write_report(run), encoding="utf-8")
    print(summary(run))
    print(f"\nwrote {path.with_suffix('.md')} and {path.name}")


def _variants(options: argparse.Namespace) -> tuple[list[Variant], list[str]]:
    """Who takes part, and a note for each that cannot."""
    precisions, engines = options.precision.split(","), options.engines.split(",")
    engines = [OURS, *PEERS] if engines == ["*"] else engines
    if unknown := [name for name in [*precisions, *engines] if name not in (*PRECISIONS, OURS, *PEERS)]:
        raise ValueError(
            f"unknown: {', '.join(unknown)}; precisions: {', '.join(PRECISIONS)}; {OURS}, {', '.join(PEERS)}"
        )
    variants, notes = find_variants(options.peers, precisions, engines), []
    absent = [peer for peer in PEERS if peer in engines and not any(found.engine == peer for found in variants)]
    notes += [f"{peer}: not installed in the peers' folder, or not at this precision" for peer in absent]
    for variant in [found for found in variants if found.engine == OURS and missing_setting(found.precision)]:
        notes.append(f"{variant.title}: {missing_setting(variant.precision)}")
        variants.remove(variant)
    for note in notes:
        print(note, file=sys.stderr)
    return variants, notes


def _new_run(options: argparse.Namespace, checkpoint: Path, cells: Sequence[Cell], notes: list[str]) -> Run:
    from benchmarks.engine.machine import describe_commit, describe_machine
    from benchmarks.engine.shape import read_shape

    return Run(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks.engine", *sys.argv[1:]]),
        commit=describe_commit(),
        machine=describe_machine(),
        checkpoint=checkpoint.name,
        shape=asdict(read_shape(checkpoint)),
        cells=[cell.name for cell in cells],
        precisions=options.precision.split(","),
        notes=notes,
    )


def _jobs(
    options: argparse.Namespace, run: Run, variants: Sequence[Variant], checkpoint: Path, cells: list[Cell]
) -> dict[Variant, Job]:
    """Each variant's job, its model converted; one whose conversion fails is left out with a note."""
    jobs = {}
    for variant in variants:
        try:
            model = checkpoints.model_path(variant, checkpoint, options.cache)
        except checkpoints.ConversionError as error:
            run.notes.append(f"{variant.title}: its model could not be made: {error}")
            print(run.notes[-1], file=sys.stderr)
            continue
        jobs[variant] = _job(options, variant.precision, str(model), run.shape["vocab_size"], cells)
    return jobs


def _job(options: argparse.Namespace, precision: str, model: str, vocab_size: int, cells: list[Cell]) -> Job:
    settings = dict(pair.split("=", 1) for pair in options.set)
    return Job(model, precision, vocab_size, cells, options.threads, options.limit_s, settings)


def free_path(folder: Path, date: str, what: str) -> Path:
    """`DATE-what.json` in `folder`, or with the first free number after it: no run overwrites another."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{date}-{what}", *(f"{date}-{what}-{number}" for number in range(2, 1000))]
    return next(path for name in names if not (path := folder / f"{name}.json").exists())


def _report(options: argparse.Namespace) -> None:
    from benchmarks.engine.report import write_report

    out = options.json.with_suffix(".md")
    out.write_text(write_report(read_run(options.json)), encoding="utf-8")
    print(f"wrote {out}")


def _install(options: argparse.Namespace) -> None:
    names = options.names or list(PEERS)
    if unknown := [name for name in names if name not in PEERS]:
        raise ValueError(f"unknown peer {', '.join(unknown)}; known: {', '.join(PEERS)}")
    install.install(options.peers, names)


def _curves(options: argparse.Namespace) -> None:
    from benchmarks.engine.curves import cells_of, curves, page, plot_all
    from benchmarks.engine.rounds import run_rounds

    if reason := missing_setting(options.precision):
        raise ValueError(reason)
    checkpoint = options.checkpoint or checkpoints.ensure_checkpoint(options.cache, options.shape)
    wanted = curves(options.max_context)
    cells = cells_of(wanted)
    run = _new_run(options, checkpoint, cells, [])
    (variant,) = find_variants(options.peers, run.precisions, [OURS])
    path = free_path(options.out, run.date[:10], "engine-curves")
    job = _job(options, variant.precision, str(checkpoint), run.shape["vocab_size"], cells)
    run_rounds(run, {variant: job}, 1, lambda: write_run(run, path))
    text = page(run, wanted, plot_all(run, wanted, path))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
