"""What a worker runs: this project's engine, OpenVINO, or a relay to a server elsewhere.

Each is imported when it is asked for: a relay needs no torch, and not everybody has OpenVINO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenworks.contract.config import Settings
from tokenworks.contract.worker_groups import groups_of

if TYPE_CHECKING:
    from tokenworks.engine.engine import Engine

Progress = Callable[[int, int], None]


def run_any(settings: Settings, worker_id: str, gateways: Sequence[str]) -> None:
    """Be the worker that `settings.workers`, which has one entry, describes; returns when drained."""
    [group] = groups_of(settings)
    if group.runs == "openai":
        from tokenworks.worker.relay import run_relay

        run_relay(settings, group, worker_id, gateways)
        return
    from tokenworks.worker.process import run_worker

    run_worker(settings, worker_id, gateways)


def build_any(directory: Path, settings: Settings, progress: Progress) -> Engine:
    """The engine of this worker's kind with the checkpoint loaded; raises StartupError with what to do."""
    [group] = groups_of(settings)
    if group.runs == "openvino":
        from tokenworks.engine.openvino.build import build_openvino_engine

        return build_openvino_engine(
            directory, settings.engine, settings.kv, group.device, settings.fleet.workers, progress
        )
    from tokenworks.engine.build import build_engine

    return build_engine(directory, settings.engine, settings.fleet.workers, progress, settings.kv)
