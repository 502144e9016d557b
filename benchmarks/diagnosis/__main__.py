"""Provokes every fault and says which were found; then runs nothing is wrong with, in which nothing may be found.

    python -m benchmarks.diagnosis                 # all of it, about 6 minutes
    python -m benchmarks.diagnosis --only slow_worker --clean-runs 0

A clean run is compared with another clean run of the same system. On a machine that does other work beside, rules about
speed find that, and rightly: leave the machine alone.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.diagnosis.faults import (
    FAR_RULES,
    POOL,
    POOL_FAULTS,
    SMALL,
    SMALL_FAULTS,
    far_system,
    usual_anew,
    usual_of_one,
    usual_run,
)
from benchmarks.diagnosis.place import Fault
from benchmarks.diagnosis.system import System, running
from tokenworks.observe.ledger import Window

RULES = (tuple(each.rule for each in POOL_FAULTS), tuple(each.rule for each in SMALL_FAULTS), FAR_RULES)


@click.command()
@click.option("--only", multiple=True, help="This rule's fault alone; may be repeated.")
@click.option("--clean-runs", default=5, show_default=True, help="Runs without a fault.")
def main(only: tuple[str, ...], clean_runs: int) -> None:
    """Provoke faults for real and see whether `tokenworks diagnose` finds them."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    click.echo(f"{platform.platform()}, commit {commit}, embedded model")
    missed: list[str] = []
    invented = 0
    with tempfile.TemporaryDirectory() as folder:
        wanted = set(only) or {rule for rules in RULES for rule in rules}
        if clean_runs or wanted & set(RULES[0]):
            with running(Path(folder, "pool"), *POOL, workers=2) as system:
                baseline = usual_run(system, seconds=10.0)
                invented = _clean(system, baseline, clean_runs)
                missed += _provoke(system, POOL_FAULTS, baseline, wanted)
        if wanted & set(RULES[1]):
            with running(Path(folder, "small"), *SMALL) as system:
                missed += _provoke(system, SMALL_FAULTS, usual_run(system, usual_of_one), wanted)
        if wanted & set(RULES[2]):
            with far_system(Path(folder, "far")) as (system, faults):
                missed += _provoke(system, faults, usual_run(system, usual_anew), wanted)
    click.echo(f"missed: {', '.join(missed) or 'none'}; invented in {clean_runs} clean runs: {invented}")
    raise SystemExit(bool(missed or invented))


def _clean(system: System, baseline: Window, runs: int) -> int:
    """How many findings there were in runs that nothing is wrong with."""
    invented = 0
    for number in range(runs):
        found = system.diagnose(usual_run(system), baseline)
        invented += len(found)
        click.echo(f"clean run {number + 1}: {', '.join(each['rule'] for each in found) or 'nothing found'}")
    return invented


def _provoke(system: System, faults: Sequence[Fault], baseline: Window, wanted: set[str]) -> list[str]:
    """Rules that did not find their fault."""
    windows: dict[int, Window] = {}
    missed = []
    for fault in faults:
        if fault.rule not in wanted:
            continue
        if id(fault.provoke) not in windows:
            windows[id(fault.provoke)] = fault.provoke(system)
        window = windows[id(fault.provoke)]
        found = {each["rule"]: each["signal"] for each in system.diagnose(window, baseline)}
        verdict = "found" if fault.rule in found else "NOT FOUND"
        others = ", ".join(sorted(set(found) - {fault.rule}))
        click.echo(f"{fault.rule:24} {verdict:10} {found.get(fault.rule, '')}  [also: {others or 'none'}]")
        missed += [] if fault.rule in found else [fault.rule]
    return missed


if __name__ == "__main__":
    main()
