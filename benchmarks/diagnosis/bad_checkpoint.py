"""A system of one worker, whose checkpoint is lost on the disk while it runs: whoever starts again, cannot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.diagnosis.faults import STEADY
from benchmarks.diagnosis.losses import AT_A_TIME, kill_worker, of_a_page
from benchmarks.diagnosis.place import Fault, Place
from benchmarks.diagnosis.system import System, running
from tokenworks.fleet.launch import EMBEDDED_MODEL
from tokenworks.observe.ledger import Window

WEIGHTS: Final = "model.safetensors"


def lost_weights(system: System) -> Window:
    """The weights are gone when the worker dies, and come back once its successor has failed for the lack of them."""
    start_ns = time.time_ns()
    weights = _checkpoint(system.folder) / WEIGHTS
    aside = weights.rename(weights.with_suffix(".aside"))
    kill_worker(system)
    system.wait_for(lambda: _has_failed(system, start_ns), "a worker that cannot start")
    aside.rename(weights)
    system.wait_for(system.workers, "a worker that can")
    return system.window_of(start_ns, 0)


def _has_failed(system: System, since_ns: int) -> bool:
    with system.ledger() as ledger:
        incidents = ledger.incidents(Window(since_ns, time.time_ns()))
    return any(each.kind == "worker_not_started" and WEIGHTS in each.text for each in incidents)


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoint"


@contextmanager
def _served(folder: Path) -> Iterator[System]:
    shutil.copytree(EMBEDDED_MODEL, _checkpoint(folder))
    with running(folder, str(_checkpoint(folder)), *STEADY) as system:
        yield system


BAD_CHECKPOINT = Place(
    "one worker of a checkpoint that is lost",
    _served,
    lambda system: system.traffic(of_a_page, 0.0, AT_A_TIME, at_least=2 * AT_A_TIME),
    (Fault("worker_cannot_start", lost_weights),),
)
