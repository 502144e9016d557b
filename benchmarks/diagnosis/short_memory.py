"""More than the worker's memory for KV holds, in a system of one worker and no KV store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from benchmarks.diagnosis.faults import beside
from benchmarks.diagnosis.losses import AT_A_TIME, PAGE, of_a_page
from benchmarks.diagnosis.system import System
from tokenworks.observe.ledger import Window

NUM_TOO_MANY = 200
NUM_TOGETHER = 15
"""With 8 blocks each at their end, and 4 of each usual request beside, a few more than the 128 that there are."""
REST_S = 0.4


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
    """Now and then many answers grow until the last of their blocks do not fit; who came last makes way, and waits."""
    is_over = threading.Event()

    def ask(system: System, number: int) -> None:
        with ThreadPoolExecutor(NUM_TOGETHER) as pool:
            for each in range(NUM_TOGETHER):
                pool.submit(system.complete, f"{number} {each} The", max_tokens=250)
        is_over.wait(REST_S)

    with beside(system, ask, at_a_time=1):
        window = system.traffic(of_a_page, 2.5, AT_A_TIME, at_least=120)
        is_over.set()
    return window
