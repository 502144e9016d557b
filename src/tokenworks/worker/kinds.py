"""What a worker is: one with an engine of its own, or a relay to a server elsewhere, which needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from tokenworks.contract.config import Settings
from tokenworks.contract.worker_groups import groups_of


def run_any(settings: Settings, worker_id: str, gateways: Sequence[str]) -> None:
    """Be the worker that `settings.workers`, which has one entry, describes; returns when drained."""
    [group] = groups_of(settings)
    if group.runs == "openai":
        from tokenworks.worker.relay import run_relay

        run_relay(settings, group, worker_id, gateways)
        return
    from tokenworks.worker.process import run_worker

    run_worker(settings, worker_id, gateways)
