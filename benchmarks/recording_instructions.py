"""What recording takes of the gateway in instructions, and in misses of its caches: the same on a busy machine.

Processor time differs by a tenth from turn to turn on a shared machine, and recording is a hundredth. Instructions do
not: here the gateway of `benchmarks/recording.py` runs under Valgrind's callgrind, which counts them, and misses of
first-level caches as large as this processor's, while recording is switched on and off in turns. Valgrind runs a
gateway some 50 times slower, so its journal is flushed every 2.5 s in the place of 0.05 s: as many records at a time.

    python -m benchmarks.recording_instructions [--output-tokens 16] [--part metrics] [--requests 100] [--pairs 4]

A turn of 100 requests takes some 20 s, and twice that on a busy machine. What a gateway does by the clock (heartbeats,
timers) is in both, and differs with how long a turn takes: a few thousand instructions a request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.gateway import EMBEDDED, closed_loop, prompt_forms, request_bytes, wait_until_ready
from benchmarks.recording import CHAT_OUTPUT_TOKENS, CHAT_PROMPT_TOKENS, OFF, ON, own, process
from benchmarks.recording_seams import PARTS
from tokenworks.text.tokenizer import load_tokenizer

FLUSH_S: Final = 2.5
CONNECTIONS: Final = 8
READINGS: Final = {"instructions": ("Ir",), "first-level misses": ("I1mr", "D1mr", "D1mw")}
Reading = dict[str, float]
"""Of a request, by the names of `READINGS`."""


def main() -> None:
    """Print what recording adds, by pairs of turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EMBEDDED), help="checkpoint directory whose tokenizer is used")
    parser.add_argument("--part", choices=PARTS, default="all", help="what is switched off and on")
    parser.add_argument("--prompt-tokens", type=int, default=CHAT_PROMPT_TOKENS)
    parser.add_argument("--output-tokens", type=int, default=CHAT_OUTPUT_TOKENS)
    parser.add_argument("--requests", type=int, default=100, help="of a turn")
    parser.add_argument("--pairs", type=int, default=4, help="of turns")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is missing: install it (Debian: apt install valgrind)")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        measure(options, Path(folder), stack)


def measure(options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
    """All turns, then the table."""
    valgrind = [
        "valgrind", "-q", "--tool=callgrind", "--cache-sim=yes", "--instr-atstart=no",
        f"--callgrind-out-file={folder}/counts",
    ]  # fmt: skip
    address = f"ipc://{folder}/workers"
    where = ("--address", address, "--folder", str(folder), "--flush-s", str(FLUSH_S))
    gateway = stack.enter_context(process(*own(options, "gateway"), *where, under=valgrind))
    worker = stack.enter_context(process(*own(options, "worker"), *where))
    assert gateway.stdout is not None
    port = int(gateway.stdout.readline())
    wait_until_ready(port)
    prompt = prompt_forms(load_tokenizer(options.model), options.prompt_tokens)["token ids"]
    system = System((gateway.pid, worker.pid), port, request_bytes(prompt, options.output_tokens, stream=True), folder)
    system.turn(ON, options.requests)  # warms up
    control(gateway.pid, "--instr=on")
    system.counted(ON, max(1, options.requests // 10))  # so do the simulated caches
    pairs = []
    for _ in range(options.pairs):
        pairs.append((system.counted(OFF, options.requests), system.counted(ON, options.requests)))
        print(*(f"{each['instructions']:,.0f}" for each in pairs[-1]), "instructions off and on", flush=True)
    report(options, pairs)


class System:
    """A gateway that is counted, before a worker."""

    def __init__(self, pids: tuple[int, int], port: int, request: bytes, folder: Path) -> None:
        self._pids = pids
        self._port = port
        self._request = request
        self._folder = folder

    def turn(self, mode: int, requests: int) -> None:
        """Answer requests, with recording on or off, until all is written down."""
        for pid in self._pids:
            os.kill(pid, mode)
        time.sleep(1.0)
        asyncio.run(closed_loop(self._port, self._request, requests, CONNECTIONS))
        time.sleep(2 * FLUSH_S)

    def counted(self, mode: int, requests: int) -> Reading:
        """What each request of such a turn took."""
        control(self._pids[0], "--zero")
        self.turn(mode, requests)
        before = set(self._folder.glob("counts.*"))
        control(self._pids[0], "--dump")
        counts: dict[str, int] = {}
        for dump in set(self._folder.glob("counts.*")) - before:  # one a thread, where those are told apart
            for event, count in events_of(dump.read_text(errors="replace")).items():
                counts[event] = counts.get(event, 0) + count
        return {name: sum(counts.get(event, 0) for event in events) / requests for name, events in READINGS.items()}


def control(pid: int, command: str) -> None:
    """Tell callgrind something."""
    subprocess.run(["callgrind_control", command, str(pid)], check=True, capture_output=True)


def events_of(dump: str) -> dict[str, int]:
    """The totals of a dump, by event."""
    found = {name: re.search(rf"^{name}: (.*)$", dump, re.MULTILINE) for name in ("events", "totals")}
    events, totals = found["events"], found["totals"]
    if events is None or totals is None:
        raise ValueError("callgrind left a file without totals: was the gateway stopped meanwhile?")
    return dict(zip(events[1].split(), map(int, totals[1].split()), strict=False))  # zeros at the end are left out


def report(options: argparse.Namespace, pairs: list[tuple[Reading, Reading]]) -> None:
    """Medians, and between which values the pairs lie."""
    print(f"recording ({options.part}); {options.prompt_tokens} prompt and {options.output_tokens} output tokens")
    for name in READINGS:
        off = statistics.median(without[name] for without, _ in pairs)
        added = sorted(with_it[name] - without[name] for without, with_it in pairs)
        least, found, most = (each / off for each in (added[0], statistics.median(added), added[-1]))
        print(f"  {name:20} {off:12,.0f} without, {found * off:+10,.0f}: {found:+.2%} ({least:+.2%} to {most:+.2%})")


if __name__ == "__main__":
    main()
