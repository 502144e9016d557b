"""More than the worker's memory for KV holds, in a system of one worker and no KV store."""

from __future__ import annotations

import threading

from benchmarks.diagnosis.faults import beside
from benchmarks.diagnosis.losses import AT_A_TIME, PAGE, of_a_page
from benchmarks.diagnosis.system import System
from tokenworks.observe.ledger import Window

NUM_TOO_MANY = 200


def many_pages(system: System) -> Window:
    """More pages than the worker holds, one after the other."""

    def ask(system: System, number: int) -> None:
        system.complete(f"sheet {number % NUM_TOO_MANY}: {PAGE}", max_tokens=4)

    return system.traffic(ask, 1.5, AT_A_TIME, at_least=80)


def crowd(system: System) -> Window:
    """More long answers at a time than the memory holds."""

    def ask(system: System, number: int) -> None:
        system.complete(f"{number} The", max_tokens=500)

    return system.traffic(ask, 0.0, at_a_time=16, at_least=24)


def rare_crowd(system: System) -> Window:
    """Some long answers meet now and then, and memory is short as long as they do; most requests never notice."""
    is_over = threading.Event()

    def ask(system: System, number: int) -> None:
        system.complete(f"{number} The", max_tokens=1200)
        is_over.wait(0.5)

    with beside(system, ask, at_a_time=4):
        window = system.traffic(of_a_page, 3.0, AT_A_TIME, at_least=100)
        is_over.set()
    return window
