"""Faults of the machines: a processor that others take, workers that stand still, too many of them, a slow network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks.diagnosis.busy import busy_cores, cores_of, pinned
from benchmarks.diagnosis.faults import AT_A_TIME, STEADY, beside, usual, usual_anew
from benchmarks.diagnosis.load_faults import tiny_question
from benchmarks.diagnosis.system import PATIENCE_S, Ask, System, stopping
from tokenworks.observe.ledger import Window

SECONDS: Final = 2.5
PEER: Final = (*STEADY, "--threads", "1", "--max-running", "4", "--max-step-tokens", "2048")
"""Options of a worker of the pool. A prompt is computed in one step, whoever waits for a token meanwhile."""
DEAR: Final = ("--speculation", "off", "--threads", "1", "--max-running", "4", "--price-per-hour", "5")
"""Options of a worker from elsewhere."""
SECOND: Final = "second"
FAR: Final = "far"


def slow_worker(system: System) -> Window:
    """One of two workers gets an eighth of its time."""
    with stopping(worker_pids(system)[-1:], stopped_s=0.14, running_s=0.02):
        return system.traffic(usual_anew, SECONDS, 2 * AT_A_TIME, at_least=80)


def unsteady_workers(system: System) -> Window:
    """Both stand still for a moment now and then."""
    with stopping(worker_pids(system), stopped_s=0.3, running_s=0.5):
        return system.traffic(usual, SECONDS, AT_A_TIME)


def busy_machine(system: System) -> Window:
    """Three programs compute on every core of the workers."""
    with busy_cores(cores_of(worker_pids(system)), each=3):
        system.traffic(usual, 1.0, AT_A_TIME, at_least=1)  # until the workers have told of it
        return system.traffic(usual, SECONDS, AT_A_TIME, at_least=24)


def short_breath(system: System, ask: Ask = usual) -> Window:
    """Both workers stand still for most of the time, never for long."""
    with stopping(worker_pids(system), stopped_s=0.02, running_s=0.004):
        return system.traffic(ask, SECONDS, AT_A_TIME)


def not_slower(system: System) -> Window:
    """Short questions, as quick as they can be."""
    return system.traffic(usual_anew, SECONDS, AT_A_TIME)


def little_slower(system: System) -> Window:
    """Workers of short breath, for short questions: many times slower, by what nobody promised to keep below."""
    return short_breath(system, usual_anew)


@contextmanager
def starved_gateway(system: System) -> Iterator[None]:
    """The gateway shares one core with four programs that compute."""
    [gateway] = system.pids("gateway")
    core = cores_of([gateway])[-1:]
    with pinned(gateway, core), busy_cores(core, each=4):
        yield


def gateway_without_time(system: System) -> Window:
    """Many tiny questions come to a gateway that hardly gets a processor, beside others or at all."""
    with starved_gateway(system), stopping(system.pids("gateway"), stopped_s=0.15, running_s=0.05):
        return system.traffic(tiny_question, SECONDS, 4 * AT_A_TIME)


@contextmanager
def halting_gateway(system: System) -> Iterator[None]:
    """The gateway gets a tenth of its time, whatever else runs on the machine."""
    with stopping(system.pids("gateway"), stopped_s=0.09, running_s=0.01):
        yield


def join_where_gateway_halts(system: System) -> Window:
    """A second worker, a dearer one, comes to help where the gateway is too slow for one; nobody stops asking."""
    with halting_gateway(system), beside(system, tiny_question, 2 * AT_A_TIME):
        join_far(system)
        return system.traffic(tiny_question, SECONDS, 1, at_least=1)


def join_on_the_same_core(system: System) -> Window:
    """A second worker comes, to the core of the first."""
    join_second(system)
    with on_one_core(system):
        return system.traffic(long_answer, SECONDS, AT_A_TIME)


def long_answer(system: System, number: int) -> None:
    """A short question that nobody has asked before."""
    system.complete(f"{number} {time.time_ns()} The", max_tokens=64)


@contextmanager
def on_one_core(system: System) -> Iterator[None]:
    """All workers have one core."""
    with ExitStack() as stack:
        for pid in worker_pids(system):
            stack.enter_context(pinned(pid, cores_of([pid])[:1]))
        yield


def join_second(system: System) -> None:
    """A worker like the first comes, by the short way."""
    assert system.link is not None
    assert isinstance(system.link.target, tuple)
    if SECOND not in system.workers():
        system.join(SECOND, f"tcp://127.0.0.1:{system.link.target[1]}", *PEER)


def join_far(system: System) -> None:
    """A dearer worker comes over the network that can be made slow."""
    assert system.link is not None
    if FAR not in system.workers():
        system.join(FAR, f"tcp://127.0.0.1:{system.link.port}", *DEAR)


def leave(system: System) -> None:
    """Who came last leaves, when it has nothing left to do."""
    num_left = len(system.workers()) - 1
    process = system.others.pop()
    process.terminate()
    process.wait(PATIENCE_S)
    system.wait_for(lambda: len(system.workers()) == num_left, "its leaving")


def long_way(system: System) -> Window:
    """The network to that worker becomes slow."""
    assert system.link is not None
    system.link.latency_s = 0.4
    try:
        return system.traffic(usual_anew, SECONDS, 2 * AT_A_TIME)
    finally:
        system.link.latency_s = 0.0


def worker_pids(system: System) -> list[int]:
    """Of its own and of those that joined it."""
    return [*system.pids("worker"), *(process.pid for process in system.others)]
