"""What the store costs where it cannot help: traffic without reuse, and a remote tier as slow as a bad line.

    python -m benchmarks.kv.never_slower CHECKPOINT TRACE [--rounds 3] [--requests 24]

Without reuse: requests with prompts of their own (512 tokens in, 32 out, four at a time) on a system without a store,
on one with host memory and on one with host memory and disk, in turns, each after a warm-up that is not counted. Shown
are the throughputs, and what each process took beyond what it takes when idle: processor seconds and page faults, which
a busy machine hardly changes.

With a remote tier behind a proxy that lets 1 MB/s through: conversations as in `replay`, turn by turn, on a system
whose store has hardly any memory; each turn's TTFT (median of the rounds) against the same turn without a store, taken
before and after: how much those two differ is the noise. (Needs redis-server; without it this part is left out, and
says so.)
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.kv.client import Answer, complete
from benchmarks.kv.conversations import Turn, turns_of, words
from benchmarks.kv.fleet import Fleet, running
from benchmarks.kv.processes import Taken, taken_below
from benchmarks.kv.replay import HEARTBEAT_S, MOST_TOKENS, configuration, replay
from benchmarks.kv.slow_remote import slow_redis
from tokenworks.plan.traces import read_trace

INPUT, OUTPUT, LANES = 512, 32, 4
LINE_BYTES_PER_S = 1_000_000
WARM_UP = LANES
IDLE_S = 10.0  # the kernel tells hundredths of a second
SETTLE_S = 6.0  # until what was put is on disk and the last heartbeat has come
COUNTED = {
    "steps": ("tokenworks_worker_steps", {}),
    "for prompts, s": ("tokenworks_worker_step_seconds", {"work": "prefill"}),
    "for answers, s": ("tokenworks_worker_step_seconds", {"work": "decode"}),
    "between steps, s": ("tokenworks_worker_between_seconds", {}),
}
"""What is counted of the worker: the name and labels of its metric."""


async def without_reuse(fleet: Fleet, requests: int, seed: str) -> float:
    """Tokens per second of requests that share nothing."""
    serial = count()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def lane() -> None:
            while (index := next(serial)) < requests:
                await complete(session, fleet.url, words(f"{seed}/{index}", INPUT), OUTPUT)

        start = time.monotonic()
        await asyncio.gather(*(lane() for _ in range(LANES)))
        return requests * (INPUT + OUTPUT) / (time.monotonic() - start)


@dataclass
class Run:
    """One system, measured once after its warm-up."""

    tokens_per_s: float
    taken: dict[str, Taken]  # by part of the system, of 1,000 prompt tokens, above what it takes when idle
    idle: dict[str, Taken]  # in a second without requests
    counted: dict[str, float]  # of `COUNTED`, of 1,000 prompt tokens


def no_reuse(options: argparse.Namespace) -> None:
    """The first part."""
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="tokenworks-disk-", dir=".") as disk:
        host = '[kv]\nhost_bytes = "2GiB"'
        both = f'{host}\ndisk_path = "{Path(disk).resolve()}"\ndisk_bytes = "8GiB"'
        systems = {"no store": "", "host": host, "host and disk": both}
        chosen = options.systems.split(",") if options.systems else list(systems)
        for turn in range(options.rounds):
            for name in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                run = measured(options, systems[name], str(turn))
                runs.setdefault(name, []).append(run)
                print(f"round {turn + 1}, {name}: {run.tokens_per_s:.1f} tokens/s", flush=True)
    _print_taken(runs)
    _print_counted(runs)
    _print_rates(runs)


def measured(options: argparse.Namespace, kv: str, seed: str) -> Run:
    """Start a system, warm it up, run the requests and wait until what they left is written."""
    with running(configuration(options, "1GiB", kv)) as fleet:
        fleet.wait_until(1, 1 if kv else 0)
        asyncio.run(without_reuse(fleet, WARM_UP, f"{seed}/warm"))
        time.sleep(SETTLE_S)
        idle = Stretch(fleet)
        time.sleep(IDLE_S)
        per_second = {part: each._replace(faults=0) for part, each in idle.taken(1 / IDLE_S).items()}
        before = counted(fleet)
        busy, start_s = Stretch(fleet), time.monotonic()
        rate = asyncio.run(without_reuse(fleet, options.requests, seed))
        time.sleep(SETTLE_S)
        per_1000 = 1000 / (INPUT * options.requests)
        elapsed_s = per_1000 * (time.monotonic() - start_s)
        taken = {
            part: each.plus(per_second.get(part, Taken()), -elapsed_s) for part, each in busy.taken(per_1000).items()
        }
        now = counted(fleet)
        return Run(rate, taken, per_second, {name: per_1000 * (now[name] - before[name]) for name in COUNTED})


def counted(fleet: Fleet) -> dict[str, float]:
    """Since the worker started."""
    return {name: fleet.metric(metric, **labels) for name, (metric, labels) in COUNTED.items()}


class Stretch:
    """What a system's processes take from now on."""

    def __init__(self, fleet: Fleet) -> None:
        self._pid = fleet.pid
        self._before = taken_below(fleet.pid)

    def taken(self, share: float) -> dict[str, Taken]:
        """Until now, so many times."""
        now = taken_below(self._pid)
        return {part: Taken().plus(each.plus(self._before.get(part, Taken()), -1), share) for part, each in now.items()}


def _print_taken(runs: dict[str, list[Run]]) -> None:
    """What the processes took, medians; the worker's user time is what computing takes, and the machine's noise."""
    print("\nof 1,000 prompt tokens (medians), in milliseconds of a processor, and pages that came on first touch:")
    print("| system | process | user | system | pages | idle, a second |\n|---|---|---:|---:|---:|---:|")
    for name, several in runs.items():
        for part in sorted({part for run in several for part in run.taken}):
            columns = zip(*(run.taken.get(part, Taken()) for run in several), strict=True)
            user_s, system_s, faults = (statistics.median(column) for column in columns)
            idle_s = statistics.median(sum(run.idle.get(part, Taken())[:2]) for run in several)
            row = f"{1e3 * user_s:.1f} | {1e3 * system_s:.1f} | {faults:.0f} | {1e3 * idle_s:.1f}"
            print(f"| {name} | {part} | {row} |")


def _print_counted(runs: dict[str, list[Run]]) -> None:
    print("\nof 1,000 prompt tokens (medians), of the worker:")
    print(f"| system | {' | '.join(COUNTED)} |\n|---|{'---:|' * len(COUNTED)}")
    for name, several in runs.items():
        medians = [statistics.median(run.counted[each] for run in several) for each in COUNTED]
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in medians)} |")


def _print_rates(runs: dict[str, list[Run]]) -> None:
    rates = {name: [run.tokens_per_s for run in several] for name, several in runs.items()}
    base = rates.get("no store")
    print("\n| system | tokens/s, median | least | most | against no store, median of the rounds |")
    print("|---|---:|---:|---:|---:|")
    for name, each in rates.items():
        shares = [ours / theirs - 1 for ours, theirs in zip(each, base, strict=True)] if base else []
        against = f"{statistics.median(shares):+.1%}" if shares else ""
        print(f"| {name} | {statistics.median(each):.1f} | {min(each):.1f} | {max(each):.1f} | {against} |")


def slow_remote(options: argparse.Namespace, turns: list[Turn]) -> None:
    """The second part: rounds of two systems without a store and, between them, one with a slow remote tier."""
    found: dict[str, list[list[Answer]]] = {"before": [], "slow remote": [], "after": []}
    with slow_redis(LINE_BYTES_PER_S) as url:
        store = f'[kv]\nhost_bytes = "64MiB"\nremote = "{url}"'
        for turn in range(options.rounds):
            for name, answers in found.items():
                print(f"round {turn + 1}, {name}:")
                answers.append(conversed(options, turns, store if name == "slow remote" else ""))
    ttft = {name: [[answer.ttft_s for answer in each] for each in rounds] for name, rounds in found.items()}
    before, slow, after = (_medians(ttft[name]) for name in ("before", "slow remote", "after"))
    base = _medians(ttft["before"] + ttft["after"])
    _print_ratios("TTFT with a remote tier at 1 MB/s over TTFT without a store", slow, base)
    _print_ratios("TTFT without a store, after over before", after, before)


def conversed(options: argparse.Namespace, turns: list[Turn], kv: str) -> list[Answer]:
    """All turns, on a system of their own."""
    with running(configuration(options, options.device, kv)) as fleet:
        fleet.wait_until(1, 1 if kv else 0)
        asyncio.run(without_reuse(fleet, 1, "warm"))
        stretch = Stretch(fleet)
        answers = asyncio.run(replay(fleet, turns, {}))
        took = {part: sum(each[:2]) for part, each in stretch.taken(1.0).items()}
        print(f"processor seconds: worker {took['worker']:.1f}, store {took.get('kvstore', 0.0):.2f}")
        if kv:
            time.sleep(HEARTBEAT_S)
            puts = fleet.metric("tokenworks_kv_tier_puts", tier="remote")
            print(f"declined: {fleet.metric('tokenworks_worker_kv_declined_blocks'):.0f} blocks, sent: {puts:.0f}")
        return answers


def _medians(rounds: list[list[float]]) -> list[float]:
    """Of each turn, over the rounds."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _print_ratios(what: str, ours: list[float], base: list[float]) -> None:
    p50, p90, worst = np.percentile([a / b for a, b in zip(ours, base, strict=True)], [50, 90, 100])
    sums = sum(ours) / sum(base)
    print(f"\n{what}, {len(ours)} turns: P50 {p50:.3f}, P90 {p90:.3f}, worst {worst:.3f}, sums {sums:.3f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--conversations", type=int, default=5)
    parser.add_argument("--length", type=float, default=1 / 12)
    parser.add_argument("--device", default="512MiB")
    parser.add_argument("--only", choices=["reuse", "remote"])
    parser.add_argument("--systems", default="", help="of the first part, comma-separated: no store,host,host and disk")
    options = parser.parse_args()
    if options.only != "remote":
        no_reuse(options)
    if options.only != "reuse":
        if shutil.which("redis-server") is None:
            print("redis-server is not installed (Debian: apt install redis-server): the slow remote is left out")
            return
        slow_remote(options, turns_of(read_trace(options.trace), options.length, options.conversations, 4, MOST_TOKENS))


if __name__ == "__main__":
    main()
