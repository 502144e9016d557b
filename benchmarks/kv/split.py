"""Long prompts among short chats, on two workers of one core each: what splitting prefill from decode gains, and loses.

    python -m benchmarks.kv.split CHECKPOINT [--chats 1,4,8] [--long 256,1024,2048] [--every 8] [--seconds 45]

Two systems with the same two workers and the same store: `together` (both do everything) and `split` (one for
prompts, one for what follows them; the gateway still decides request by request). In each, so many chats go on
without a pause (64 tokens in, 48 out) while a long prompt arrives every so often (16 tokens out). For every pair of
lengths and numbers the table shows the chats' ITL P99 and P50, the long prompts' TTFT P50, and goodput: the tokens
per second of those requests that kept their objectives (chats: every gap below --slo-itl; long prompts: first token
within --slo-ttft). The map at the end says where splitting wins.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from itertools import count

import aiohttp
import numpy as np

from benchmarks.kv.client import Answer, complete
from benchmarks.kv.conversations import words
from benchmarks.kv.fleet import Fleet, running

CHAT_TOKENS, CHAT_OUTPUT, LONG_OUTPUT = 64, 48, 16
TIMEOUT = aiohttp.ClientTimeout(total=300)
SYSTEMS = {
    "together": '[[workers]]\ncount = 2\nrole = "both"',
    "split": '[[workers]]\nrole = "prefill"\n[[workers]]\nrole = "decode"',
}


@dataclass
class Traffic:
    """What one stretch of traffic saw."""

    chats: list[Answer] = field(default_factory=list)
    longs: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    split: int = 0
    """Requests that the gateway had a prefill worker compute first."""

    def goodput(self, slo_itl_s: float, slo_ttft_s: float) -> float:
        """Output and prompt tokens per second of the requests that met their objectives."""
        good = [a for a in self.chats if max(a.itl_s, default=0) <= slo_itl_s and a.ttft_s <= slo_ttft_s]
        good += [a for a in self.longs if a.ttft_s <= slo_ttft_s]
        return sum(a.prompt_tokens + len(a.token_ids) for a in good) / self.seconds


async def drive(fleet: Fleet, num_chats: int, long_tokens: int, options: argparse.Namespace) -> Traffic:
    """One cell's traffic, for `options.seconds`, and until what has begun has ended."""
    traffic, serial = Traffic(), count()
    split_before = fleet.metric("tokenworks_placements", way="split")
    start = time.monotonic()

    def is_over() -> bool:
        return time.monotonic() - start > options.seconds

    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:

        async def chat() -> None:
            while not is_over():
                prompt = words(f"chat/{start}/{next(serial)}", CHAT_TOKENS)
                traffic.chats.append(await complete(session, fleet.url, prompt, CHAT_OUTPUT))

        async def one_long() -> None:
            prompt = words(f"long/{start}/{next(serial)}", long_tokens)
            traffic.longs.append(await complete(session, fleet.url, prompt, LONG_OUTPUT))

        async def longs(group: asyncio.TaskGroup) -> None:
            while not is_over():
                await asyncio.sleep(options.every)
                group.create_task(one_long())

        async with asyncio.TaskGroup() as group:
            for _ in range(num_chats):
                group.create_task(chat())
            group.create_task(longs(group))
    traffic.seconds = time.monotonic() - start
    traffic.split = round(fleet.metric("tokenworks_placements", way="split") - split_before)
    return traffic


def row(
    name: str, num_chats: int, long_tokens: int, traffic: Traffic, options: argparse.Namespace
) -> tuple[str, float]:
    """A line of the table, and the goodput."""
    gaps = [gap for answer in traffic.chats for gap in answer.itl_s]
    p50, p99 = np.percentile(gaps, [50, 99]) * 1e3
    ttft = np.median([answer.ttft_s for answer in traffic.longs])
    good = traffic.goodput(options.slo_itl, options.slo_ttft)
    return (
        f"| {num_chats} | {long_tokens} | {name} | {p99:.0f} ms | {p50:.0f} ms | {ttft:.2f} s | "
        f"{len(traffic.chats)} / {len(traffic.longs)} | {traffic.split} | {good:.1f} |"
    ), good


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--chats", default="1,4,8")
    parser.add_argument("--long", default="256,1024,2048")
    parser.add_argument("--every", type=float, default=8.0, help="seconds between long prompts")
    parser.add_argument("--seconds", type=float, default=45.0, help="of each cell")
    parser.add_argument("--slo-itl", type=float, default=0.5, help="seconds, of every gap of a chat")
    parser.add_argument("--slo-ttft", type=float, default=15.0, help="seconds to the first token")
    options = parser.parse_args()
    print(
        "| chats | long prompt | system | ITL P99 of chats | P50 | TTFT P50 of longs | done | split | goodput, tok/s |"
    )
    print("|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    goodputs: dict[tuple[int, int], dict[str, float]] = {}
    for name, workers in SYSTEMS.items():
        toml = f'model = "{options.checkpoint}"\n{workers}\n[engine]\nspeculation = "off"\n[kv]\nhost_bytes = "2GiB"\n'
        with running(toml) as fleet:
            fleet.wait_until(2, 1)
            for num_chats in map(int, options.chats.split(",")):
                for long_tokens in map(int, options.long.split(",")):
                    traffic = asyncio.run(drive(fleet, num_chats, long_tokens, options))
                    line, good = row(name, num_chats, long_tokens, traffic, options)
                    goodputs.setdefault((num_chats, long_tokens), {})[name] = good
                    print(line, flush=True)
    print("\n| chats | long prompt | goodput, split / together |\n|---:|---:|---:|")
    for (num_chats, long_tokens), found in goodputs.items():
        print(f"| {num_chats} | {long_tokens} | {found['split'] / max(found['together'], 1e-9):.2f} |")


if __name__ == "__main__":
    main()
