"""What is done to a running system, and the rule that must find it.

Each fault is compared with the same traffic before it (`usual`). None needs a time to be kept: a slow machine makes the
usual run as slow as the faulty one.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from benchmarks.diagnosis.system import System, stopping
from tokenworks.observe.ledger import Window

AT_A_TIME = 4
TENANTS = ("key-of-anna", "key-of-bert")
DOCUMENT = "the with statement of the language is used to wrap the execution of a block " * 12
NUM_DOCUMENTS = 8


@dataclass(frozen=True)
class Fault:
    """One."""

    rule: str  # that finds it
    provoke: Callable[[System], Window]  # and the time in which it could be seen
    also: frozenset[str] = frozenset()  # rules that may speak up too, since the fault is theirs as well


def usual(system: System, number: int) -> None:
    """A short chat about one of a few documents, of one of two tenants."""
    document = f"document {number % NUM_DOCUMENTS}: {DOCUMENT}"
    system.complete(f"{document} question {number}?", key=TENANTS[number // NUM_DOCUMENTS % len(TENANTS)])


def warm_up(system: System) -> None:
    """Every document is in a cache, and every kernel is compiled."""
    system.traffic(usual, 3.0, AT_A_TIME)


def usual_run(system: System, seconds: float = 8.0) -> Window:
    """What every fault is compared with."""
    return system.traffic(usual, seconds, AT_A_TIME)


def slow_worker(system: System) -> Window:
    """One of two workers gets a quarter of its time."""
    with stopping(system.pids("worker")[-1:], stopped_s=0.06, running_s=0.02):
        return system.traffic(usual, 6.0, AT_A_TIME)


def unsteady_workers(system: System) -> Window:
    """Both stand still for a moment now and then."""
    with stopping(system.pids("worker"), stopped_s=0.15, running_s=0.6):
        return system.traffic(usual, 6.0, AT_A_TIME)


def late_gateway(system: System) -> Window:
    """The gateway gets a tenth of its time, so that what arrives there waits."""
    with stopping(system.pids("gateway"), stopped_s=0.18, running_s=0.02):
        return system.traffic(usual, 6.0, AT_A_TIME)


def flood(system: System) -> Window:
    """A third tenant sends more than fits, with long answers."""

    def greedy(running: System, number: int) -> None:
        running.complete(f"{number} The", max_tokens=150, key="key-of-carl")

    with beside(system, greedy, at_a_time=24):
        return system.traffic(usual, 6.0, AT_A_TIME)


def unlike_prompts(system: System) -> Window:
    """What changes has moved to the front of the prompts."""

    def ask(running: System, number: int) -> None:
        running.complete(f"{number} {time.time_ns()} {DOCUMENT}", key=TENANTS[number % 2])

    return system.traffic(ask, 5.0, AT_A_TIME)


def long_prompts(system: System) -> Window:
    """One prompt in twelve fills the window, and is nobody's."""

    def ask(running: System, number: int) -> None:
        if number % 12:
            usual(running, number)
        else:
            running.complete(f"{number} {time.time_ns()} " + "of " * 1700, max_tokens=4)

    return system.traffic(ask, 6.0, AT_A_TIME)


def offline_prompts(system: System) -> Window:
    """Long prompts of offline work beside chats, which are held up by it."""

    def summarise(running: System, number: int) -> None:
        prompt = f"{number} {time.time_ns()} " + "of " * 1700
        running.complete(prompt, max_tokens=1, key="key-of-dora", service_tier="flex")

    with beside(system, summarise, at_a_time=3):
        return system.traffic(usual, 6.0, AT_A_TIME)


def slow_clients(system: System) -> Window:
    """Requests that come in piece by piece."""
    url = httpx.URL(system.url)

    def ask(running: System, number: int) -> None:
        body = b'{"model": "embedded", "max_tokens": 8, "prompt": "%d The"}' % number
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((url.host, url.port or 80)) as connection:
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            for at in range(0, len(body), 12):
                connection.sendall(body[at : at + 12])
                time.sleep(0.06)
            while connection.recv(1 << 16):
                pass

    return system.traffic(ask, 5.0, 2 * AT_A_TIME)


def bad_requests(system: System) -> Window:
    """Every third request cannot be served."""

    def ask(running: System, number: int) -> None:
        if number % 3:
            usual(running, number)
        else:
            running.complete("The " * 5000, max_tokens=4)

    return system.traffic(ask, 4.0, AT_A_TIME)


def leaving_clients(system: System) -> Window:
    """Half of the clients leave in the middle of a long answer."""

    def ask(running: System, number: int) -> None:
        if number % 2:
            usual(running, number)
            return
        body = {"model": "embedded", "prompt": f"{number} The", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/completions", json=body, timeout=60) as answer:
            for tokens, _ in enumerate(answer.iter_lines()):
                if tokens > 60:
                    return

    return system.traffic(ask, 5.0, AT_A_TIME)


def kill_worker(system: System) -> Window:
    """One of the workers dies while it has work."""
    pid = system.pids("worker")[0]
    timer = threading.Timer(1.0, os.kill, (pid, signal.SIGKILL))
    timer.start()
    return system.traffic(usual, 4.0, AT_A_TIME)


def crowd(system: System) -> Window:
    """More long answers at a time than the KV memory holds."""

    def ask(running: System, number: int) -> None:
        running.complete(f"{number} The", max_tokens=200)

    return system.traffic(ask, 6.0, 16)


def many_documents(system: System) -> Window:
    """More documents than worker and store hold, one after the other."""

    def ask(running: System, number: int) -> None:
        running.complete(f"page {number % 200}: {DOCUMENT}", max_tokens=4)

    return system.traffic(ask, 6.0, 2)


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


POOL = ("--workers", "2", "--threads", "1", "--max-running", "4", "--price-per-hour", "1")
"""Options of the system for most faults."""
POOL_FAULTS = (
    Fault("slow_worker", slow_worker),
    Fault("jitter", unsteady_workers),
    Fault("slow_network", late_gateway),
    Fault("noisy_neighbour", flood),
    Fault("late_by_queue", flood),
    Fault("cache_collapse", unlike_prompts),
    Fault("cost_by_cache", unlike_prompts),
    Fault("late_by_prompt", long_prompts),
    Fault("prefill_interference", offline_prompts),
    Fault("slow_client", slow_clients),
    Fault("turned_away", bad_requests),
    Fault("cost_by_waste", leaving_clients),
    Fault("worker_lost", kill_worker),
)
SMALL = ("--threads", "2", "--kv-bytes", "2MiB", "--kv-host-bytes", "4MiB")
"""Options of the system that is short of memory."""
SMALL_FAULTS = (Fault("preemption_thrashing", crowd), Fault("cache_evicted", many_documents))
