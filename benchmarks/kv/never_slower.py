"""What the store costs where it cannot help: traffic without reuse, and a remote tier as slow as a bad line.

    python -m benchmarks.kv.never_slower CHECKPOINT TRACE [--rounds 3] [--requests 24]

Without reuse: requests with prompts of their own (512 tokens in, 32 out, four at a time) on a system without a store
and on one with host memory and disk, in turns; the ratio of median throughputs. With a remote tier behind a proxy
that lets 1 MB/s through: conversations as in `replay`, turn by turn, on a system whose store has hardly any memory;
each turn's TTFT against the same turn without a store, taken before and after: how much those two differ is the noise.
(Needs redis-server; without it this part is left out, and says so.)
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np

from benchmarks.kv.client import Answer, complete
from benchmarks.kv.conversations import Turn, turns_of, words
from benchmarks.kv.fleet import Fleet, running
from benchmarks.kv.replay import MOST_TOKENS, configuration, replay
from benchmarks.kv.slow_remote import slow_redis
from tokenworks.plan.traces import read_trace

INPUT, OUTPUT, LANES = 512, 32, 4
LINE_BYTES_PER_S = 1_000_000


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


def no_reuse(options: argparse.Namespace) -> None:
    """The first part."""
    rates: dict[str, list[float]] = {"no store": [], "host and disk": []}
    with tempfile.TemporaryDirectory(prefix="tokenworks-disk-", dir=".") as disk:
        store = f'[kv]\nhost_bytes = "2GiB"\ndisk_path = "{Path(disk).resolve()}"\ndisk_bytes = "8GiB"'
        for turn in range(options.rounds):
            for name, kv, stores in (("no store", "", 0), ("host and disk", store, 1)):
                with running(configuration(options, "1GiB", kv)) as fleet:
                    fleet.wait_until(1, stores)
                    rates[name].append(asyncio.run(without_reuse(fleet, options.requests, f"{turn}")))
                    print(f"round {turn + 1}, {name}: {rates[name][-1]:.1f} tokens/s", flush=True)
    ours, base = statistics.median(rates["host and disk"]), statistics.median(rates["no store"])
    print(f"\nwithout reuse: {ours:.1f} tokens/s with the store, {base:.1f} without: {ours / base - 1:+.1%}\n")


def slow_remote(options: argparse.Namespace, turns: list[Turn]) -> None:
    """The second part."""
    found: dict[str, list[Answer]] = {}
    with slow_redis(LINE_BYTES_PER_S) as url:
        store = f'[kv]\nhost_bytes = "64MiB"\nremote = "{url}"'
        for name, kv, stores in (("before", "", 0), ("slow remote", store, 1), ("after", "", 0)):
            print(f"{name}:")
            with running(configuration(options, options.device, kv)) as fleet:
                fleet.wait_until(1, stores)
                found[name] = asyncio.run(replay(fleet, turns, {}))
                if stores:
                    print("declined:", fleet.metric("tokenworks_worker_kv_declined_blocks"), "blocks")
    slow, before, after = ([a.ttft_s for a in found[name]] for name in ("slow remote", "before", "after"))
    mean = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
    _print_ratios("TTFT with a remote tier at 1 MB/s over TTFT without a store", slow, mean)
    _print_ratios("TTFT without a store, after over before", after, before)


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
