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
from functools import partial
from pathlib import Path

import httpx

from benchmarks.diagnosis.place import Fault
from benchmarks.diagnosis.system import Ask, System, running, stopping
from tests.kv.throttle import ThrottledProxy
from tokenworks.observe.ledger import Window

AT_A_TIME = 4
TENANTS = ("key-of-anna", "key-of-bert")
DOCUMENT = "the with statement of the language is used to wrap the execution of a block " * 12
NUM_DOCUMENTS = 8


def usual(system: System, number: int) -> None:
    """A short chat about one of a few documents, of one of two tenants."""
    document = f"document {number % NUM_DOCUMENTS}: {DOCUMENT}"
    system.complete(f"{document} question {number}?", key=TENANTS[number // NUM_DOCUMENTS % len(TENANTS)])


def usual_of_one(system: System, number: int) -> None:
    """A short chat about one document, which fits where little does."""
    system.complete(f"document: {DOCUMENT} question {number}?")


def usual_anew(system: System, number: int) -> None:
    """A short question that nobody has asked before, so that every worker is as good as any other."""
    system.complete(f"{number} {time.time_ns()} The", max_tokens=32)


def usual_run(system: System, ask: Ask = usual, seconds: float = 4.0) -> Window:
    """What every fault is compared with, once every document is in a cache and every kernel compiled."""
    system.traffic(ask, seconds / 4, AT_A_TIME)
    return system.traffic(ask, seconds, AT_A_TIME)


def slow_worker(system: System) -> Window:
    """One of two workers gets an eighth of its time."""
    with stopping(system.pids("worker")[-1:], stopped_s=0.14, running_s=0.02):
        return system.traffic(usual_anew, 4.0, 2 * AT_A_TIME, at_least=100)


def unsteady_workers(system: System) -> Window:
    """Both stand still for a moment now and then."""
    with stopping(system.pids("worker"), stopped_s=0.15, running_s=0.6):
        return system.traffic(usual, 4.0, AT_A_TIME)


def flood(system: System) -> Window:
    """A third tenant sends more than fits, with long answers."""

    def greedy(running: System, number: int) -> None:
        running.complete(f"{number} The", max_tokens=80, key="key-of-carl")

    with beside(system, greedy, at_a_time=16):
        return system.traffic(usual, 4.0, AT_A_TIME)


def unlike_prompts(system: System) -> Window:
    """What changes has moved to the front of the prompts."""

    def ask(running: System, number: int) -> None:
        running.complete(f"{number} {time.time_ns()} {DOCUMENT}", key=TENANTS[number % 2])

    return system.traffic(ask, 3.0, AT_A_TIME)


def long_prompts(system: System) -> Window:
    """One prompt in twelve fills the window, and is nobody's."""

    def ask(running: System, number: int) -> None:
        if number % 12:
            usual(running, number)
        else:
            running.complete(f"{number} {time.time_ns()} " + "of " * 1700, max_tokens=4)

    return system.traffic(ask, 4.0, AT_A_TIME)


def offline_prompts(system: System) -> Window:
    """Long prompts of offline work beside chats, which are held up by it."""

    def summarise(running: System, number: int) -> None:
        prompt = f"{number} {time.time_ns()} " + "of " * 1700
        running.complete(prompt, max_tokens=1, key="key-of-dora", service_tier="flex")

    with beside(system, summarise, at_a_time=3):
        return system.traffic(usual, 4.0, AT_A_TIME)


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

    return system.traffic(ask, 3.0, 2 * AT_A_TIME)


def bad_requests(system: System) -> Window:
    """Every third request cannot be served."""

    def ask(running: System, number: int) -> None:
        if number % 3:
            usual(running, number)
        else:
            running.complete("The " * 5000, max_tokens=4)

    return system.traffic(ask, 2.0, AT_A_TIME, at_least=60)


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

    return system.traffic(ask, 3.0, AT_A_TIME)


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

    return system.traffic(ask, 4.0, 16)


def many_documents(system: System) -> Window:
    """More documents than worker and store hold, one after the other."""

    def ask(running: System, number: int) -> None:
        running.complete(f"page {number % 200}: {DOCUMENT}", max_tokens=4)

    return system.traffic(ask, 4.0, 2)


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
POOL = (*STEADY, "--workers", "2", "--threads", "1", "--max-running", "4")
"""Options of the system for most faults."""
POOL_FAULTS = (
    Fault("slow_worker", slow_worker),
    Fault("jitter", unsteady_workers),
    Fault("noisy_neighbour", flood),
    Fault("late_by_queue", flood),
    Fault("cache_collapse", unlike_prompts),
    Fault("cost_by_cache", unlike_prompts),
    Fault("late_by_prompt", long_prompts),
    Fault("prefill_interference", offline_prompts),
    Fault("slow_client", slow_clients),
    Fault("wrong_requests", bad_requests),
    Fault("cost_by_waste", leaving_clients),
    Fault("worker_lost", kill_worker),
)
FAR_RULES = ("cost_by_price", "no_gain_from_workers", "slow_network")
FAR = (*STEADY, "--threads", "2", "--worker-address")
"""Options of the system that another worker joins; the address follows."""
SMALL = (*STEADY, "--threads", "2", "--kv-bytes", "2MiB", "--kv-host-bytes", "4MiB")
"""Options of the system that is short of memory."""
SMALL_FAULTS = (Fault("preemption_thrashing", crowd), Fault("cache_evicted", many_documents))


@contextmanager
def far_system(folder: Path) -> Iterator[tuple[System, tuple[Fault, ...]]]:
    """A system that a worker can join over a network which can be made slow, and what goes wrong there, in order."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ThrottledProxy(("127.0.0.1", port)) as proxy, running(folder, *FAR, f"tcp://127.0.0.1:{port}") as system:
        join = partial(second_worker, proxy=proxy)
        yield (
            system,
            (
                Fault("cost_by_price", join),
                Fault("no_gain_from_workers", join),
                Fault("slow_network", partial(long_way, proxy=proxy)),
            ),
        )


def second_worker(system: System, proxy: ThrottledProxy) -> Window:
    """A dearer worker joins on the same cores."""
    address = f"tcp://127.0.0.1:{proxy.port}"
    system.join("far", address, "--speculation", "off", "--threads", "2", "--price-per-hour", "5")
    return system.traffic(usual_anew, 10.0, 2 * AT_A_TIME)


def long_way(system: System, proxy: ThrottledProxy) -> Window:
    """The network to that worker becomes slow."""
    proxy.latency_s = 0.4
    try:
        return system.traffic(usual_anew, 8.0, 2 * AT_A_TIME)
    finally:
        proxy.latency_s = 0.0
