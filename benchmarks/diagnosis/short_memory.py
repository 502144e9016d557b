"""More than the worker's memory for KV holds, in a system of one worker and no KV store."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx

from benchmarks.diagnosis.losses import AT_A_TIME, PAGE, of_a_page
from benchmarks.diagnosis.system import ANSWER_S, PATIENCE_S, System
from tokenworks.observe.ledger import Window

NUM_TOO_MANY = 200
NUM_GROWING = 4
"""With 170 blocks each at their end, of 512. Who makes way for them waits until one has ended."""
NEARLY_FULL_TOKENS = 150
"""Of each answer: then 424 blocks are taken."""


def many_pages(system: System) -> Window:
    """More pages than the worker holds, one after the other, again and again."""

    def ask(system: System, number: int) -> None:
        system.complete(f"sheet {number % NUM_TOO_MANY}: {PAGE}", max_tokens=4)

    system.traffic(ask, 0.0, AT_A_TIME, at_least=NUM_TOO_MANY)
    return system.traffic(ask, 1.5, AT_A_TIME, at_least=80)


def crowd(system: System) -> Window:
    """More long answers at a time than the memory holds."""

    def ask(system: System, number: int) -> None:
        system.complete(f"{number} The", max_tokens=500)

    return system.traffic(ask, 0.0, at_a_time=16, at_least=24)


def rare_crowd(system: System) -> Window:
    """Four long answers outgrow the memory once; who comes shortly before makes way, and waits until one has ended."""
    is_nearly_full = threading.Event()

    def grow(number: int) -> None:
        body = {"prompt": f"{number} " + "of " * 700, "max_tokens": 660, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{system.url}/v1/completions", json=body, timeout=ANSWER_S) as answer:
            for tokens, _ in enumerate(answer.iter_lines()):
                if tokens > 2 * NEARLY_FULL_TOKENS:  # each is a line and an empty one
                    is_nearly_full.set()

    start_ns = time.time_ns()
    with ThreadPoolExecutor(NUM_GROWING) as pool:
        growing = [pool.submit(grow, number) for number in range(NUM_GROWING)]
        is_nearly_full.wait(PATIENCE_S)
        system.traffic(partial(of_a_page, max_tokens=110), 0.0, AT_A_TIME, at_least=30)
    return system.window_of(start_ns, len(growing))
