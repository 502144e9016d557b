"""A system of one worker, whose checkpoint is lost on the disk while it runs: whoever starts again, cannot.

Its lease is short, so that clients do not wait long for a worker that does not come back.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.diagnosis.faults import STEADY, beside
from benchmarks.diagnosis.losses import AT_A_TIME, kill_worker, of_a_page
from benchmarks.diagnosis.place import Fault, Place
from benchmarks.diagnosis.system import System, running
from tokenworks.fleet.launch import EMBEDDED_MODEL
from tokenworks.observe.ledger import Window

WEIGHTS: Final = "model.safetensors"
OPTIONS: Final = (*STEADY, "--lease-s", "2")
NUM_REFUSED: Final = 80
RETRY_S: Final = 0.02


def lost_weights(system: System) -> Window:
    """The weights are gone when the worker dies, and come back once its successor has failed for the lack of them.

    Clients ask all the while, until many were turned away.
    """
    start_ns = time.time_ns()
    refused: list[int] = []

    def ask(system: System, number: int) -> None:
        if of_a_page(system, number) != 200:
            refused.append(number)
            time.sleep(RETRY_S)

    weights = _checkpoint(system.folder) / WEIGHTS
    aside = weights.rename(weights.with_suffix(".aside"))
    kill_worker(system)
    with beside(system, ask, AT_A_TIME):
        system.wait_for(lambda: _has_failed(system, start_ns), "a worker that cannot start")
        system.wait_for(lambda: len(refused) >= NUM_REFUSED, "clients that are turned away")
    aside.rename(weights)
    system.wait_for(system.workers, "a worker that can")
    return system.window_of(start_ns, len(refused))


def _has_failed(system: System, since_ns: int) -> bool:
    with system.ledger() as ledger:
        incidents = ledger.incidents(Window(since_ns, time.time_ns()))
    return any(each.kind == "worker_not_started" and WEIGHTS in each.text for each in incidents)


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoint"


@contextmanager
def _served(folder: Path) -> Iterator[System]:
    shutil.copytree(EMBEDDED_MODEL, _checkpoint(folder))
    with running(folder, str(_checkpoint(folder)), *OPTIONS) as system:
        yield system


AWAY: Final = frozenset({"worker_cannot_start", "worker_lost", "turned_away", "late_by_loss", "restart_loop"})
"""All of it is so."""
BAD_CHECKPOINT = Place(
    "one worker of a checkpoint that is lost",
    _served,
    lambda system: system.traffic(of_a_page, 0.0, AT_A_TIME, at_least=40),
    (Fault("worker_cannot_start", lost_weights, AWAY), Fault("turned_away", lost_weights, AWAY)),
)
