"""A system of one worker and no KV store, and what can go wrong in it."""

from __future__ import annotations

from benchmarks.diagnosis.faults import STEADY
from benchmarks.diagnosis.load_faults import alone, rush
from benchmarks.diagnosis.losses import AT_A_TIME, NUM_PAGES, damaged_journal, deadly_requests, killed_worker, of_a_page
from benchmarks.diagnosis.place import Fault, Place
from benchmarks.diagnosis.short_memory import crowd, many_pages, rare_crowd
from benchmarks.diagnosis.system import System, running
from tokenworks.observe.ledger import Window

OPTIONS = (*STEADY, "--threads", "2", "--block-tokens", "8", "--kv-bytes", "10MiB")
"""512 blocks: room for all usual pages, with 14 each, and for a few requests that run."""


def settle(system: System) -> None:
    """Every page is in the cache."""
    system.traffic(of_a_page, 0.0, AT_A_TIME, at_least=NUM_PAGES)


def usual(system: System) -> Window:
    return system.traffic(of_a_page, 1.5, AT_A_TIME, at_least=3 * NUM_PAGES)


ONE_WORKER = Place(
    "one worker",
    lambda folder: running(folder, *OPTIONS),
    usual,
    (
        Fault("missing_records", damaged_journal),
        Fault("busier", rush, instead=frozenset({"late_by_queue"}), usual=alone),
        Fault("late_by_preemption", rare_crowd),
        Fault("preemption_thrashing", crowd),
        Fault("cache_evicted", many_pages),
        Fault("worker_lost", killed_worker),
        Fault("cache_lost", killed_worker),
        Fault("late_by_loss", killed_worker),
        Fault("restart_loop", deadly_requests),
        Fault("failing", deadly_requests),
    ),
    settle,
)
