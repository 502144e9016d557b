"""Three tenants, three scenarios, and one fault that nobody is told of: can it be explained from the table alone?

    python -m benchmarks.diagnosis.mixed FOLDER [--seconds 120] [--fault NAME]

A system of two workers with a store in host memory: `shop` asks about a few products (online), `search` has documents
summed up that nobody has seen before (offline), `finance` asks short questions at a steady pace (realtime). Somewhere
in the middle one of `FAULTS`, drawn by chance, begins and ends. Nothing is printed of it: what and when stands in
FOLDER/truth.json, for later. The ledger stays in FOLDER/state:

    TOKENWORKS_LEDGER_PATH=FOLDER/state tokenworks table --since 1h
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.diagnosis.faults import DOCUMENT, STEADY
from benchmarks.diagnosis.host_faults import starved_gateway, worker_pids
from benchmarks.diagnosis.meanwhile import meanwhile
from benchmarks.diagnosis.system import System, running, stopping

OPTIONS: Final = (*STEADY, "--workers", "2", "--threads", "1", "--kv-host-bytes", "256MiB")
NUM_PRODUCTS: Final = 6
CLIENTS: Final = 48
"""Threads that ask: a request that is due goes out although others have not come back."""
KILL_EVERY_S: Final = 5.0


@dataclass
class Run:
    """One that goes on; what its tenants do may be changed meanwhile."""

    system: System
    keys: dict[str, str]
    is_head_new: bool = False  # of what shop asks
    is_long: bool = False  # what search sends
    pace: dict[str, float] = field(default_factory=lambda: {"shop": 3.0, "search": 1.0, "finance": 2.0})  # a second

    def shop(self, number: int) -> None:
        """A question about one of a few products; as a rule, its description stands in front."""
        head = f"{time.time_ns()} " if self.is_head_new else ""
        self._ask("shop", f"{head}product {number % NUM_PRODUCTS}: {DOCUMENT} question {number}?", 24, "default")

    def search(self, number: int) -> None:
        """A document of its own."""
        pages = 4 if self.is_long else 1
        self._ask("search", f"{number} {time.time_ns()} {DOCUMENT * pages} In short:", 12, "flex")

    def finance(self, number: int) -> None:
        """A short question."""
        self._ask("finance", f"{number} What is the rate?", 16, "priority")

    def _ask(self, tenant: str, prompt: str, max_tokens: int, tier: str) -> None:
        more = {"stream": True, "service_tier": tier, "metadata": {"app": tenant}}
        self.system.complete(prompt, max_tokens, self.keys[tenant], **more)


@contextmanager
def starved_worker(run: Run) -> Iterator[None]:
    """One of the two gets a quarter of its time."""
    with stopping(worker_pids(run.system)[-1:], stopped_s=0.15, running_s=0.05):
        yield


@contextmanager
def gateway_without_time(run: Run) -> Iterator[None]:
    """The gateway shares a core with others."""
    with starved_gateway(run.system), stopping(run.system.pids("gateway"), stopped_s=0.15, running_s=0.05):
        yield


@contextmanager
def flood(run: Run) -> Iterator[None]:
    """Search sends twenty times as much."""
    before = run.pace["search"]
    run.pace["search"] = 20 * before
    yield
    run.pace["search"] = before


@contextmanager
def new_heads(run: Run) -> Iterator[None]:
    """A release of shop's application puts the time in front of each prompt."""
    run.is_head_new = True
    yield
    run.is_head_new = False


@contextmanager
def long_documents(run: Run) -> Iterator[None]:
    """What search sends fills the window."""
    run.is_long = True
    yield
    run.is_long = False


@contextmanager
def dying_worker(run: Run) -> Iterator[None]:
    """A worker is killed again and again, while there is another."""

    def kill(is_over: threading.Event) -> None:
        while not is_over.is_set():
            pids = worker_pids(run.system)
            if len(pids) > 1:
                os.kill(pids[-1], signal.SIGKILL)
            is_over.wait(KILL_EVERY_S)

    with meanwhile(kill):
        yield


FAULTS: Final[dict[str, Callable[[Run], AbstractContextManager[None]]]] = {
    each.__name__: each
    for each in (starved_worker, gateway_without_time, flood, new_heads, long_documents, dying_worker)
}


def tenant(run: Run, pool: ThreadPoolExecutor, name: str, ask: Callable[[int], None], is_over: threading.Event) -> None:
    """One asks at its pace, give or take."""
    number = 0
    while not is_over.wait(random.uniform(0.5, 1.5) / run.pace[name]):
        pool.submit(ask, number)
        number += 1


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--fault", choices=[*FAULTS], help="instead of one by chance")
    options = parser.parse_args()
    fault = options.fault or random.choice([*FAULTS])
    before_s = options.seconds * random.uniform(0.35, 0.5)
    lasts_s = options.seconds * random.uniform(0.2, 0.3)
    with running(options.folder.resolve(), *OPTIONS, workers=2) as system, ExitStack() as stack:
        keys = {name: system.run("key", "add", name).split()[0] for name in ("shop", "search", "finance")}
        run = Run(system, keys)
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        for name, ask in (("shop", run.shop), ("search", run.search), ("finance", run.finance)):
            stack.enter_context(meanwhile(lambda is_over, name=name, ask=ask: tenant(run, pool, name, ask, is_over)))
        time.sleep(before_s)
        start_s = time.time()
        with FAULTS[fault](run):
            time.sleep(lasts_s)
        truth = {"fault": fault, "what": FAULTS[fault].__doc__, "from": start_s, "until": time.time()}
        time.sleep(options.seconds - before_s - lasts_s)
    (options.folder / "truth.json").write_text(json.dumps(truth, indent=2))


if __name__ == "__main__":
    main()
