"""Faults that clients make: too much, too long, unlike each other, slow, wrong, gone."""

from __future__ import annotations

import socket
import time
from typing import Final

import httpx

from benchmarks.diagnosis.faults import AT_A_TIME, DOCUMENT, TENANTS, beside, usual, usual_anew
from benchmarks.diagnosis.system import System
from tokenworks.observe.ledger import Window

SECONDS: Final = 2.5


def flood(system: System) -> Window:
    """A third tenant sends more than fits, with long answers."""

    def greedy(running: System, number: int) -> None:
        running.complete(f"{number} The", max_tokens=80, key="key-of-carl")

    with beside(system, greedy, at_a_time=16):
        return system.traffic(usual, SECONDS, AT_A_TIME, at_least=25)


def unlike_prompts(system: System) -> Window:
    """What changes has moved to the front of the prompts."""

    def ask(running: System, number: int) -> None:
        running.complete(f"{number} {time.time_ns()} {DOCUMENT}", key=TENANTS[number % 2])

    return system.traffic(ask, SECONDS, AT_A_TIME)


def alone(system: System) -> Window:
    """One short question after the other."""
    return system.traffic(usual_anew, 1.0, 1)


def rush(system: System) -> Window:
    """The same of many at a time: there is room for all."""
    return system.traffic(usual_anew, 1.5, 4 * AT_A_TIME, at_least=100)


def unlike_prompts_of_one(system: System) -> Window:
    """The same of one of the tenants alone, who asks less often."""

    def ask(running: System, number: int) -> None:
        if number % 3:
            usual(running, TENANTS.index("key-of-anna") + number // 3 * len(TENANTS))
        else:
            running.complete(f"{number} {time.time_ns()} {DOCUMENT[: len(DOCUMENT) // 2]}", key="key-of-bert")

    return system.traffic(ask, SECONDS, AT_A_TIME, at_least=75)


def long_prompts(system: System) -> Window:
    """One prompt in eight fills the window, and is nobody's."""

    def ask(running: System, number: int) -> None:
        if number % 8:
            usual(running, number)
        else:
            running.complete(f"{number} {time.time_ns()} " + "of " * 1700, max_tokens=4)

    return system.traffic(ask, SECONDS, 2, at_least=32)


def offline_prompts(system: System) -> Window:
    """Long prompts of offline work beside chats, which are held up by it."""

    def summarise(running: System, number: int) -> None:
        prompt = f"{number} {time.time_ns()} " + "of " * 1700
        running.complete(prompt, max_tokens=1, key="key-of-dora", service_tier="flex")

    def chat(running: System, number: int) -> None:
        usual(running, number, max_tokens=12)

    with beside(system, summarise, at_a_time=2):
        return system.traffic(chat, SECONDS, AT_A_TIME, at_least=32)


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

    return system.traffic(ask, SECONDS, 2 * AT_A_TIME)


def bad_requests(system: System) -> Window:
    """Every third request cannot be served."""

    def ask(running: System, number: int) -> None:
        if number % 3:
            usual(running, number)
        else:
            running.complete("The " * 5000, max_tokens=4)

    return system.traffic(ask, 1.5, AT_A_TIME, at_least=60)


def leaving_clients(system: System) -> Window:
    """Half of the clients leave in the middle of a long answer."""

    def ask(running: System, number: int) -> None:
        if number % 2:
            usual(running, number)
            return
        body = {"model": "embedded", "prompt": f"{number} The", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        with running.client.stream("POST", f"{running.url}/v1/completions", json=body) as answer:
            for tokens, _ in enumerate(answer.iter_lines()):
                if tokens > 60:
                    return

    return system.traffic(ask, SECONDS, AT_A_TIME)


def hot_tenant(system: System) -> Window:
    """A third tenant has one long answer after the other; there is room for all, and nobody waits."""

    def greedy(running: System, number: int) -> None:
        running.complete(f"{number} The", max_tokens=60, key="key-of-carl")

    def modest(running: System, number: int) -> None:
        usual(running, number, max_tokens=8)
        time.sleep(0.02)

    with beside(system, greedy, at_a_time=1):
        return system.traffic(modest, SECONDS, 1, at_least=60)


def one_document(system: System) -> Window:
    """Everybody asks about one long document, which one of the workers has read."""
    document = f"{time.time_ns()} " + "of " * 1500
    system.complete(document, max_tokens=1)

    def ask(running: System, number: int) -> None:
        running.complete(f"{document} {number}?", max_tokens=60)

    system.traffic(ask, 1.0, 2 * AT_A_TIME, at_least=2 * AT_A_TIME)  # until the workers have told of it
    return system.traffic(ask, SECONDS, 2 * AT_A_TIME, at_least=20)


def little_traffic(system: System) -> Window:
    """A question of a token now and then, so that the slowest of machines has little to do."""

    def ask(running: System, number: int) -> None:
        tiny_question(running, number)
        time.sleep(0.1)

    return system.traffic(ask, SECONDS, 1, at_least=52)


def tiny_steps(system: System) -> Window:
    """Very many prompts of a token, each for a token: there is more to be told than to be computed."""

    def ask(running: System, number: int) -> None:
        running.complete(["The"] * 64, max_tokens=1)

    system.traffic(ask, 1.0, 3, at_least=5)
    return system.traffic(ask, SECONDS, 3, at_least=25)


def tiny_question(system: System, number: int) -> None:
    """Of a token, for a token, and new: the gateway has more to do for it than any worker."""
    system.complete(str(time.time_ns()), max_tokens=1)
