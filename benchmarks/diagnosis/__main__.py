"""Provokes every fault and says which were found; and makes runs nothing is wrong with, in which nothing may be found.

    python -m benchmarks.diagnosis                 # all of it, about 8 minutes
    python -m benchmarks.diagnosis --only slow_worker --clean-runs 0

Each place begins with its clean runs, which are compared with another one. On a machine that does other work beside,
rules about speed find that, and rightly: leave the machine alone.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from pathlib import Path

import click

from benchmarks.diagnosis.bad_checkpoint import BAD_CHECKPOINT
from benchmarks.diagnosis.one_worker import ONE_WORKER
from benchmarks.diagnosis.place import Fault, Place, Visit, visiting
from benchmarks.diagnosis.pool import PLACES as POOLS
from benchmarks.diagnosis.slow_tiers import DISK, SERVER
from tokenworks.observe.diagnose.rules import own_rules

PLACES: tuple[Place, ...] = (*POOLS, ONE_WORKER, BAD_CHECKPOINT, DISK, SERVER)


@click.command()
@click.option("--only", multiple=True, help="This rule's fault alone; may be repeated.")
@click.option("--clean-runs", default=5, show_default=True, help="Runs without a fault, in each place.")
def main(only: tuple[str, ...], clean_runs: int) -> None:
    """Provoke faults for real and see whether `tokenworks diagnose` finds them."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    click.echo(f"{platform.platform()}, commit {commit}")
    missed: list[str] = []
    invented = 0
    for place in PLACES:
        wanted = [fault for fault in place.faults if not only or fault.rule in only]
        if wanted:
            with tempfile.TemporaryDirectory() as folder, visiting(place, Path(folder)) as visit:
                click.echo(f"{place.name}:")
                invented += sum(_clean(visit, number + 1) for number in range(clean_runs))
                missed += [fault.rule for fault in wanted if not _provoke(visit, fault)]
    provoked = {rule for place in PLACES for rule in place.rules}
    unprovoked = [rule.name for rule in own_rules().rules if rule.name not in provoked]
    click.echo(f"missed: {', '.join(missed) or 'none'}; rules without a fault: {', '.join(unprovoked) or 'none'}")
    click.echo(f"invented in {clean_runs} clean runs of each place: {invented}")
    raise SystemExit(bool(missed or invented))


def _clean(visit: Visit, number: int) -> int:
    """How many findings there were in a run that nothing is wrong with."""
    found = visit.clean()
    told = "; ".join(f"{rule}: {finding['signal']}" for rule, finding in found.items())
    click.echo(f"  clean run {number}: {told or 'nothing found'}")
    return len(found)


def _provoke(visit: Visit, fault: Fault) -> bool:
    """Whether its rule found it."""
    found = visit.provoked(fault)
    finding = fault.finding(found)
    verdict, signal = ("NOT FOUND", "") if finding is None else ("found", f"{finding['rule']}: {finding['signal']}")
    others = ", ".join(sorted(found.keys() - {fault.rule} - fault.also - fault.instead))
    click.echo(f"  {fault.rule:24} {verdict:10} {signal}  [unasked: {others or 'none'}]")
    return finding is not None


if __name__ == "__main__":
    main()
