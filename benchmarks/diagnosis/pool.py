"""A pool of workers, and what goes wrong there: four places that can be one system, one after the other.

A second worker comes from elsewhere (`BEHIND`, `APART`) and leaves, another comes to the core of the first (`CROWDED`),
and they are a pool (`POOL`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.diagnosis import host_faults as host
from benchmarks.diagnosis import load_faults as load
from benchmarks.diagnosis.faults import AT_A_TIME, usual_anew, usual_run
from benchmarks.diagnosis.place import Fault, Place
from benchmarks.diagnosis.system import System, running
from tests.free_port import free_port
from tests.kv.throttle import ThrottledProxy
from tokenworks.observe.ledger import Window


def _tiny(system: System) -> Window:
    with host.halting_gateway(system):
        system.traffic(load.tiny_question, 0.5, 2 * AT_A_TIME, at_least=8)
        return system.traffic(load.tiny_question, 2.5, 2 * AT_A_TIME)


def _anew(system: System) -> Window:
    system.traffic(usual_anew, 0.5, 3 * AT_A_TIME)
    return system.traffic(usual_anew, 2.0, 3 * AT_A_TIME)


def _anew_on_one_core(system: System) -> Window:
    with host.on_one_core(system):
        return usual_run(system, host.long_answer, 2.0)


def _usual(system: System) -> Window:
    return usual_run(system, seconds=3.0)


@contextmanager
def one_worker(folder: Path) -> Iterator[System]:
    """One worker, and an address where others can dial in, by the short way or over a network that can be made slow."""
    port = free_port()
    options = (*host.PEER, "--worker-address", f"tcp://127.0.0.1:{port}")
    with ThrottledProxy(("127.0.0.1", port)) as link, running(folder, *options) as system:
        system.link = link
        yield system


@contextmanager
def and_far(folder: Path) -> Iterator[System]:
    """The same, with a dearer worker from elsewhere."""
    with one_worker(folder) as system:
        host.join_far(system)
        yield system


@contextmanager
def two_workers(folder: Path) -> Iterator[System]:
    """The same, with a second worker like the first."""
    with one_worker(folder) as system:
        host.join_second(system)
        yield system


COLD: Final = frozenset({"cache_collapse", "cost_by_cache"})
"""Who asks what nobody has asked before finds nothing in a cache, and pays for it."""
GAINLESS: Final = frozenset({"cost_by_price", "workers_wait_for_gateway", "no_gain_from_workers", "idle_devices"})
"""What may be seen where a dear worker comes and is of no use."""
EXPLAINED: Final = frozenset({"jitter", "late_by_prompt", "late_by_queue", "prefill_interference"})
"""What a slow machine makes of a slowdown: more than one that nothing explains."""
DROPPED: Final = COLD | {"cache_evicted"}
"""Prompts that fill the window push what others ask about out of the workers' memory."""
BEHIND: Final = Place(
    "behind a gateway that has no time",
    one_worker,
    _tiny,
    (
        Fault("workers_wait_for_gateway", host.join_where_gateway_halts, GAINLESS),
        Fault("cost_by_price", host.join_where_gateway_halts, GAINLESS),
    ),
    known=frozenset({"gateway_bound", "workers_wait_for_gateway"}),
)
APART: Final = Place(
    "one of two workers is elsewhere",
    and_far,
    _anew,
    (Fault("slow_network", host.long_way, frozenset({"cost_by_price"})),),
)
CROWDED: Final = Place(
    "on one core",
    one_worker,
    _anew_on_one_core,
    (Fault("no_gain_from_workers", host.join_on_the_same_core),),
)
POOL: Final = Place(
    "a pool of two workers",
    two_workers,
    _usual,
    (
        Fault("starved_worker", host.busy_machine),
        Fault("cost_by_speed", host.busy_machine),
        Fault("slowed_down", host.little_slower, instead=EXPLAINED, usual=host.not_slower),
        Fault("slow_worker", host.slow_worker, COLD),
        Fault("jitter", host.unsteady_workers),
        Fault("hot_tenant", load.hot_tenant, COLD),
        Fault("noisy_neighbour", load.flood, COLD),
        Fault("late_by_queue", load.flood, COLD | {"noisy_neighbour"}),
        Fault("cache_collapse", load.unlike_prompts, COLD),
        Fault("cost_by_cache", load.unlike_prompts, COLD),
        Fault("tenant_cache_collapse", load.unlike_prompts_of_one, COLD, instead=COLD),
        Fault("late_by_prompt", load.long_prompts, DROPPED | {"noisy_neighbour", "hot_tenant"}),
        Fault("prefill_interference", load.offline_prompts, DROPPED | {"noisy_neighbour", "hot_tenant"}),
        Fault("slow_client", load.slow_clients, COLD),
        Fault("wrong_requests", load.bad_requests),
        Fault("leaving_clients", load.leaving_clients, COLD | {"hot_tenant", "noisy_neighbour", "cost_by_waste"}),
        Fault("cost_by_waste", load.leaving_clients, COLD | {"hot_tenant", "noisy_neighbour", "leaving_clients"}),
        Fault("uneven_load", load.one_document),
        Fault("idle_devices", load.little_traffic),
        Fault("host_bound", load.tiny_steps, COLD),
        Fault("gateway_bound", host.gateway_without_time, COLD),
    ),
)
PLACES: Final = (BEHIND, APART, CROWDED, POOL)
