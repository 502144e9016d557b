"""Traffic that is usual, and traffic beside it: what faults are made of and compared with.

No fault needs a time to be kept: a slow machine makes the usual run as slow as the faulty one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.diagnosis.system import Ask, System
from tokenworks.observe.ledger import Window

AT_A_TIME = 4
TENANTS = ("key-of-anna", "key-of-bert")
DOCUMENT = "the with statement of the language is used to wrap the execution of a block " * 12
NUM_DOCUMENTS = 8


def usual(system: System, number: int, max_tokens: int = 24) -> None:
    """A short chat about one of a few documents, of one of two tenants."""
    key = TENANTS[number % len(TENANTS)]
    document = f"document {number // len(TENANTS) % NUM_DOCUMENTS}: {DOCUMENT}"
    system.complete(f"{document} question {number}?", max_tokens, key)


def usual_anew(system: System, number: int) -> None:
    """A short question that nobody has asked before, so that every worker is as good as any other."""
    system.complete(f"{number} {time.time_ns()} The", max_tokens=32)


def usual_run(system: System, ask: Ask = usual, seconds: float = 4.0) -> Window:
    """What every fault is compared with, once every document is in a cache and every kernel compiled."""
    system.traffic(ask, seconds / 4, AT_A_TIME)
    return system.traffic(ask, seconds, AT_A_TIME)


@contextmanager
def beside(system: System, ask: Callable[[System, int], None], at_a_time: int) -> Iterator[None]:
    """Other traffic, for as long as the block lasts."""
    is_over = threading.Event()

    def client() -> None:
        while not is_over.is_set():
            ask(system, next(system.numbers))

    threads = [threading.Thread(target=client) for _ in range(at_a_time)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


STEADY = ("--speculation", "off", "--price-per-hour", "1")
"""A token takes as long whatever the text is."""
