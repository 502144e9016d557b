"""Conversations replayed turn by turn: what finding their KV in a tier saves against computing it again.

    python -m benchmarks.kv.replay CHECKPOINT TRACE [--length 0.0833] [--conversations 12]

The same turns, in the trace's order, one at a time, on systems with the same device memory for KV: without a store,
with a store in host memory, with a store whose memory is small and whose disk is large, and (the honest comparison)
without a store but with the store's memory given to the device. Then the disk system is killed whole, started again
on the same folder, and asked for one more turn of each conversation, beside the same on a system that starts empty.

A turn's prompt is all that was said in its conversation, the model's own answers included. Reported: the hit ratio,
TTFT of those turns whose history had left the device (as the store's systems tell by `cached_tokens_by_tier`), each
against the same turn without a store, and the time of the whole replay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp

from benchmarks.kv.client import Answer, complete
from benchmarks.kv.conversations import Turn, turns_of, words
from benchmarks.kv.fleet import Fleet, running
from tokenworks.contract.setting import parse_bytes
from tokenworks.plan.traces import read_trace

MOST_TOKENS = 4000
HEARTBEAT_S = 1.5
SYNC_S = 6.0  # a little more than the default of kv.sync_s
RESTART = "restart"
TIMEOUT = aiohttp.ClientTimeout(total=600)


async def replay(fleet: Fleet, turns: Sequence[Turn], histories: dict[int, list[int]]) -> list[Answer]:
    """Every turn, one after the other; `histories` gets what was said."""
    answers = []
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        for index, turn in enumerate(turns):
            history = histories.setdefault(turn.conversation, [])
            history += words(f"{turn.conversation}/{index}", turn.new_tokens)
            answer = await complete(session, fleet.url, history, turn.output_tokens)
            history += answer.token_ids
            answers.append(answer)
            print(f"\r  turn {index + 1} of {len(turns)}", end="", flush=True)
    print()
    return answers


def configuration(options: argparse.Namespace, device: str, kv: str = "") -> str:
    """The `tokenworks.toml` of one system."""
    return f"""
model = "{options.checkpoint}"
[engine]
kv_bytes = "{device}"
speculation = "off"
max_context_tokens = {MOST_TOKENS + 96}
{kv}
"""


def run(turns: Sequence[Turn], name: str, toml: str, stores: int) -> list[Answer]:
    """One system, one replay."""
    print(f"{name}:")
    with running(toml) as fleet:
        fleet.wait_until(1, stores)
        answers = asyncio.run(replay(fleet, turns, {}))
        if stores:
            print(exchange_of(fleet))
        return answers


def exchange_of(fleet: Fleet) -> str:
    """What the worker's exchange with the store came to: predictions beside the truth, and what was not used, why."""
    time.sleep(HEARTBEAT_S)
    wanted = ("tokenworks_worker_kv_", "tokenworks_kv_tier_read", "tokenworks_kv_tier_faults")
    lines = [line for line in fleet.metrics().splitlines() if line.startswith(wanted) and not line.endswith(" 0.0")]
    return "\n".join(f"  {line}" for line in lines)


def after_restart(turns: Sequence[Turn], toml: str, folder: Path) -> dict[str, list[Answer]]:
    """One more turn of each conversation after the whole system was killed, with the disk's blocks and without."""
    histories: dict[int, list[int]] = {}
    print("before the kill:")
    with running(toml) as fleet:
        fleet.wait_until(1, 1)
        asyncio.run(replay(fleet, turns, histories))
        time.sleep(SYNC_S)
        fleet.kill()
    last = [Turn(conversation, 0.0, 16, 8) for conversation in histories]
    found = {}
    for name in ("restarted, warm", "restarted, empty"):
        if name.endswith("empty"):
            shutil.rmtree(folder)
        print(f"{name}:")
        with running(toml) as fleet:
            fleet.wait_until(1, 1)
            found[name] = asyncio.run(replay(fleet, last, {key: list(value) for key, value in histories.items()}))
    for name, answers in found.items():
        ttft = statistics.median(answer.ttft_s for answer in answers)
        cached = sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)
        print(f"{name}: TTFT P50 {ttft:.3f} s, {cached:.0%} of the tokens found")
    return found


def compare(turns: Sequence[Turn], runs: dict[str, list[Answer]], least_share: float) -> None:
    """The tables."""
    base = runs["no store"]
    total = sum(answer.e2e_s for answer in base)
    print("\n| system | tokens found | of those device / host / disk | whole replay | against no store |")
    print("|---|---:|---|---:|---:|")
    for name, answers in runs.items():
        prompt = sum(answer.prompt_tokens for answer in answers)
        tiers: dict[str, int] = defaultdict(int)
        for answer in answers:
            for tier, count in (answer.by_tier or {"device": answer.cached_tokens}).items():
                tiers[tier] += count
        shares = " / ".join(f"{tiers[tier] / prompt:.1%}" for tier in ("device", "host", "disk"))
        took = sum(answer.e2e_s for answer in answers)
        cached = sum(answer.cached_tokens for answer in answers) / prompt
        print(f"| {name} | {cached:.1%} | {shares} | {took:.1f} s | {took / total - 1:+.0%} |")
    print("\n| history came from | system | turns | TTFT P50 | of the same turns without a store | below it by |")
    print("|---|---|---:|---:|---:|---:|")
    for name, answers in runs.items():
        for tier in ("host", "disk"):
            pairs = [
                (answer.ttft_s, before.ttft_s)
                for answer, before in zip(answers, base, strict=True)
                if answer.by_tier.get(tier, 0) >= least_share * answer.prompt_tokens and not before.cached_tokens
            ]
            if pairs:
                ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
                saved = statistics.median(1 - after / before for after, before in pairs)
                print(f"| {tier} | {name} | {len(pairs)} | {ours:.3f} s | {theirs:.3f} s | {saved:.0%} |")


def systems(options: argparse.Namespace, folder: Path) -> dict[str, tuple[str, int]]:
    """By name: the configuration, and how many stores it has."""
    merged = parse_bytes(options.device) + parse_bytes(options.host)
    on_disk = f'[kv]\nhost_bytes = "{options.small_host}"\ndisk_path = "{folder}"\ndisk_bytes = "16GiB"'
    return {
        "no store": (configuration(options, options.device), 0),
        "host": (configuration(options, options.device, f'[kv]\nhost_bytes = "{options.host}"'), 1),
        "disk": (configuration(options, options.device, on_disk), 1),
        "larger device": (configuration(options, str(merged)), 0),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--length", type=float, default=1 / 12, help="scale of the trace's lengths")
    parser.add_argument("--conversations", type=int, default=12)
    parser.add_argument("--device", default="512MiB", help="the worker's own memory for KV")
    parser.add_argument("--host", default="3GiB", help="the store's memory")
    parser.add_argument("--small-host", default="256MiB", help="the store's memory where the disk is measured")
    parser.add_argument("--only", default="", help=f"comma-separated names of systems, or {RESTART}")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    turns = turns_of(read_trace(options.trace), options.length, options.conversations, 4, MOST_TOKENS)
    prompt = sum(turn.new_tokens for turn in turns)
    print(f"{len(turns)} turns of {options.conversations} conversations; {prompt} new prompt tokens")
    wanted = options.only.split(",") if options.only else None
    with tempfile.TemporaryDirectory(prefix="tokenworks-disk-", dir=".") as disk:
        folder = Path(disk).resolve() / "kv"
        every = systems(options, folder)
        runs = {name: run(turns, name, *every[name]) for name in every if wanted is None or name in wanted}
        if "no store" in runs:
            compare(turns, runs, least_share=0.5)
        if wanted is None or RESTART in wanted:
            shutil.rmtree(folder, ignore_errors=True)
            runs |= after_restart(turns, every["disk"][0], folder)
    if options.json:
        rows = {name: [asdict(answer) for answer in answers] for name, answers in runs.items()}
        options.json.write_text(json.dumps({"turns": [asdict(turn) for turn in turns], "runs": rows}) + "\n")


if __name__ == "__main__":
    main()
