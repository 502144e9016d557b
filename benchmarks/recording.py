"""What recording takes of the gateway: processor time a request, with and without it, in one process.

A real gateway stands before a worker that answers at once, and writes its journal beside a real observer. Recording is
switched on and off in short turns within the gateway's one life, so that both are measured with the same memory, the
same code in the caches and the same neighbours on the machine; a pair of turns that follow each other gives one
difference. What is switched off is all that a request does for its record: the notes on the way, the legs, what
the worker reports, the record, its metrics and the journal's frame; or, with `--part`, one of these alone, the
journal's syncing, or the samples of workers. Tracing ids, the histograms of latencies and the counters that were there
before records are on in both.

    python -m benchmarks.recording [--alone] [--output-tokens 16] [--part metrics] [--pairs 100]

Requests are as long as those of a public trace of chats are on average; 16 output tokens are the worst case, since what
a record takes hardly depends on them. A turn ends with a write of the journal and maybe a sync, which take 0.15 ms
whatever was recorded: below 1 us a request with 200 requests. The interval is the middle 95 % of 2,000 samples drawn
from the pairs. The observer's own time stands beside it: it is another process, of a low priority. Each turn's
processor time includes what other programs on the same cores do to its caches: let the machine be idle. Instructions,
which nobody else has a part in, are counted by `benchmarks/recording_instructions.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.gateway import (
    EMBEDDED,
    REPORT,
    be_worker,
    closed_loop,
    cpu_s,
    prompt_forms,
    request_bytes,
    wait_until_ready,
)
from benchmarks.pairs import Pair, difference
from benchmarks.recording_seams import PARTS, switches
from tokenworks.contract.config import GatewaySettings, LedgerSettings, Settings
from tokenworks.text.tokenizer import load_tokenizer

ON: Final = signal.SIGUSR1
OFF: Final = signal.SIGUSR2
CHAT_PROMPT_TOKENS: Final = 1155
CHAT_OUTPUT_TOKENS: Final = 211
"""Means of Azure's public trace of conversations (2023, 19,366 requests). Mooncake's are 12,035 and 343."""
SETTLED_S: Final = 0.12  # the journal is flushed every 0.05 s
PATIENCE_S: Final = 60.0


def main() -> None:
    """Run one of the three roles; without a role, the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=["measure", "gateway", "worker"], default="measure", help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--flush-s", type=float, default=LedgerSettings().flush_s, help=argparse.SUPPRESS)
    parser.add_argument("--model", default=str(EMBEDDED), help="checkpoint directory whose tokenizer is used")
    parser.add_argument("--part", choices=PARTS, default="all", help="what is switched off and on")
    parser.add_argument("--prompt-tokens", type=int, default=CHAT_PROMPT_TOKENS)
    parser.add_argument("--output-tokens", type=int, default=CHAT_OUTPUT_TOKENS)
    parser.add_argument("--requests", type=int, default=200, help="of a turn")
    parser.add_argument("--pairs", type=int, default=100, help="of turns")
    parser.add_argument("--alone", action="store_true", help="without an observer, where there are few cores")
    parser.add_argument("--connections", type=int, default=8, help="of the closed loop")
    options = parser.parse_args()
    {"measure": measure, "gateway": be_gateway, "worker": be_switched_worker}[options.role](options)


def be_gateway(options: argparse.Namespace) -> None:
    """The process under test."""
    from tokenworks.gateway.process import run_gateway

    own = GatewaySettings(port=0, worker_address=options.address, model_name="bench")
    ledger = LedgerSettings(path=options.folder, flush_s=options.flush_s)
    settings = Settings(model=options.model, gateway=own, ledger=ledger)
    switch_by_signal(*switches(options.part, options.output_tokens))
    run_gateway(settings, on_ready=lambda host, port: print(port, flush=True))


def be_switched_worker(options: argparse.Namespace) -> None:
    """Tells what a sequence took while that is wanted."""
    told = {"report": True}
    is_concerned = options.part in ("all", "report")
    switch_by_signal(lambda: told.update(report=True), lambda: told.update(report=not is_concerned))
    be_worker(options, lambda: REPORT if told["report"] else None)


def switch_by_signal(on: Callable[[], None], off: Callable[[], None]) -> None:
    """From now on each of the two signals calls one."""
    signal.signal(ON, lambda number, frame: on())
    signal.signal(OFF, lambda number, frame: off())


def measure(options: argparse.Namespace) -> None:
    """Print what recording takes of the gateway's time, and of the observer's."""
    prompt = prompt_forms(load_tokenizer(options.model), options.prompt_tokens)["token ids"]
    request = request_bytes(prompt, options.output_tokens, stream=True)
    address = f"ipc:///tmp/tokenworks-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        observer = (
            None if options.alone else stack.enter_context(process("tokenworks", "observer", "--ledger-path", folder))
        )
        roles = [
            stack.enter_context(process(*own(options, name), "--address", address, "--folder", folder))
            for name in ("gateway", "worker")
        ]
        assert roles[0].stdout is not None
        port = int(roles[0].stdout.readline())
        wait_until_ready(port)
        pids = [each.pid for each in roles]
        turn(options, pids, ON, port, request)  # warms up
        before_s = cpu_s(observer.pid) if observer else 0.0
        pairs = [pair(options, pids, port, request, number) for number in range(options.pairs)]
        if observer:
            wait_until_read(folder)
        report(options, pairs, cpu_s(observer.pid) - before_s if observer else None)


def own(options: argparse.Namespace, role: str) -> list[str]:
    told = {"--role": role, "--model": options.model, "--part": options.part, "--output-tokens": options.output_tokens}
    return ["benchmarks.recording", *(str(word) for pair in told.items() for word in pair)]


@contextmanager
def process(*module: str, under: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A module that runs meanwhile, under another program where one is named."""
    command = [*under, sys.executable, "-m", *module]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        try:
            yield started
        finally:
            started.terminate()


def pair(options: argparse.Namespace, pids: Sequence[int], port: int, request: bytes, number: int) -> Pair:
    """Microseconds a request, off and on; neither is always the second."""
    spent_us = {mode: turn(options, pids, mode, port, request) for mode in ((OFF, ON) if number % 2 else (ON, OFF))}
    return spent_us[OFF], spent_us[ON]


def turn(options: argparse.Namespace, pids: Sequence[int], mode: int, port: int, request: bytes) -> float:
    """Microseconds of the gateway's processor time a request, all threads, until all of it is written down."""
    for pid in pids:
        os.kill(pid, mode)
    time.sleep(0.02)
    before_s = cpu_s(pids[0])
    asyncio.run(closed_loop(port, request, options.requests, options.connections))
    time.sleep(SETTLED_S)
    return (cpu_s(pids[0]) - before_s) / options.requests * 1e6


def wait_until_read(folder: str) -> None:
    """Until the observer has taken in what was written."""
    from tokenworks.contract.record import Record
    from tokenworks.observe.journal.reader import JournalReader
    from tokenworks.observe.store import open_ledger

    last = [
        frame for frame in JournalReader(Path(folder) / "journal").read({}, 1 << 30).frames if isinstance(frame, Record)
    ][-1]
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        ledger = open_ledger(LedgerSettings(path=folder))
        found = ledger.record(last.id)
        ledger.close()
        if found is not None:
            return
        time.sleep(0.2)
    raise TimeoutError("the observer does not take in the journal")


def report(options: argparse.Namespace, pairs: Sequence[Pair], observer_s: float | None) -> None:
    """Both, their difference with its interval, and what the observer took beside."""
    off_us = statistics.median(off for off, _ in pairs)
    low, found, high = difference(pairs)
    observed_us = None if observer_s is None else observer_s / (len(pairs) * options.requests) * 1e6
    print(f"{options.prompt_tokens} prompt tokens, {options.output_tokens} output tokens, {len(pairs)} pairs of turns")
    print(f"gateway, processor time per 1,000 requests: {off_us / 1e3:.3f} s without recording")
    print(f"recording ({options.part}): {found:+.1f} us a request [{low:+.1f}, {high:+.1f}]")
    print(f"of the gateway's time: {found / off_us:+.2%} [{low / off_us:+.2%}, {high / off_us:+.2%}]")
    if observed_us is not None:
        print(f"the observer, another process: {observed_us:.0f} us a recorded request")
    told = {
        "pairs_us": [[round(each, 1) for each in pair] for pair in pairs],
        "off_us": off_us,
        "recording_us": [low, found, high],
        "observer_us": observed_us,
    }
    print(json.dumps({name: getattr(options, name) for name in ("part", "prompt_tokens", "output_tokens")} | told))


if __name__ == "__main__":
    main()
