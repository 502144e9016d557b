"""Conversations replayed turn by turn: what finding their KV in a tier saves against computing it again.

    python -m benchmarks.kv.replay CHECKPOINT TRACE [--length 0.0833] [--conversations 12]
    python -m benchmarks.kv.replay CHECKPOINT TRACE --speed 7 --every 20 --seconds 300

The same turns on systems with the same device memory for KV: without a store, with a store in host memory, with a store
whose memory is small and whose disk is large, and (the honest comparison) without a store but with the store's memory
given to the device. A turn's prompt is all that was said in its conversation, the model's own answers included.

Without `--speed` turns are sent one at a time, in the trace's order. Reported: the hit ratio, TTFT of those turns whose
history had left the device (as the store's systems tell by `cached_tokens_by_tier`), each against the same turn without
a store, and the time of the whole replay. Then the disk system is killed whole, started again on the same folder, and
asked for one more turn of each conversation, beside the same on a system that starts empty.

With `--speed` they are sent as they came, so many trace seconds a second (see `pacing`), of every `--every`-th
conversation and for `--seconds`: answers are computed together, and a response time has the waiting in it. The load
that was offered is what the system without a store had to compute, over the time in which the turns came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path

import aiohttp

from benchmarks.kv.client import Answer, complete
from benchmarks.kv.conversations import Turn, turns_of, words
from benchmarks.kv.fleet import Fleet, running
from benchmarks.kv.pacing import paced
from benchmarks.kv.replay_tables import BASE, Replay, as_they_came, offered, one_by_one
from tokenworks.contract.setting import parse_bytes
from tokenworks.plan.traces import read_trace

MOST_TOKENS = 4000
CONVERSATIONS = 12
STEPS = "tokenworks_worker_step_seconds"
HEARTBEAT_S = 1.5
SYNC_S = 6.0  # a little more than the default of kv.sync_s
RESTART = "restart"
TIMEOUT = aiohttp.ClientTimeout(total=600)


async def replay(
    fleet: Fleet, turns: Sequence[Turn], histories: dict[int, list[int]], speed: float = 0.0
) -> list[Answer]:
    """Every turn, one after the other or as they came; `histories` gets what was said."""
    ended = count(1)
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:

        async def ask(index: int) -> Answer:
            turn = turns[index]
            history = histories.setdefault(turn.conversation, [])
            history += words(f"{turn.conversation}/{index}", turn.new_tokens)
            answer = await complete(session, fleet.url, history, turn.output_tokens)
            history += answer.token_ids
            print(f"\r  {next(ended)} of {len(turns)} turns", end="", flush=True)
            return answer

        answers = await paced(turns, speed, ask) if speed else [await ask(index) for index in range(len(turns))]
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


def run(turns: Sequence[Turn], name: str, toml: str, stores: int, speed: float) -> Replay:
    """One system, one replay."""
    print(f"{name}:")
    with running(toml) as fleet:
        fleet.wait_until(1, stores)
        before_s = fleet.metric(STEPS)
        answers = asyncio.run(replay(fleet, turns, {}, speed))
        time.sleep(HEARTBEAT_S)
        if stores:
            print(exchange_of(fleet))
        return Replay(answers, fleet.metric(STEPS) - before_s)


def exchange_of(fleet: Fleet) -> str:
    """What the worker's exchange with the store came to: predictions beside the truth, and what was not used, why."""
    wanted = ("tokenworks_worker_kv_", "tokenworks_kv_tier_read", "tokenworks_kv_tier_faults")
    lines = [line for line in fleet.metrics().splitlines() if line.startswith(wanted) and not line.endswith(" 0.0")]
    return "\n".join(f"  {line}" for line in lines)


def after_restart(turns: Sequence[Turn], toml: str, folder: Path) -> dict[str, Replay]:
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
    return {name: Replay(answers, math.nan) for name, answers in found.items()}


def systems(options: argparse.Namespace, folder: Path) -> dict[str, tuple[str, int]]:
    """By name: the configuration, and how many stores it has."""
    merged = parse_bytes(options.device) + parse_bytes(options.host)
    on_disk = f'[kv]\nhost_bytes = "{options.small_host}"\ndisk_path = "{folder}"\ndisk_bytes = "16GiB"'
    return {
        BASE: (configuration(options, options.device), 0),
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
    parser.add_argument("--conversations", type=int, help=f"at most; {CONVERSATIONS}, or with --speed any number")
    parser.add_argument("--device", default="512MiB", help="the worker's own memory for KV")
    parser.add_argument("--host", default="3GiB", help="the store's memory")
    parser.add_argument("--small-host", default="256MiB", help="the store's memory where the disk is measured")
    parser.add_argument("--only", default="", help=f"comma-separated names of systems, or {RESTART}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--speed", type=float, default=0.0, help="trace seconds a second; 0: one turn at a time")
    parser.add_argument("--every", type=int, default=1, help="of the trace's conversations, each so many-th")
    parser.add_argument("--seconds", type=float, default=300.0, help="with --speed: for how long turns are sent")
    options = parser.parse_args()
    turns = chosen(options)
    prompt, output = sum(turn.new_tokens for turn in turns), sum(turn.output_tokens for turn in turns)
    conversations = len({turn.conversation for turn in turns})
    print(f"{len(turns)} turns of {conversations} conversations; {prompt} new prompt tokens, {output} of answers")
    wanted = options.only.split(",") if options.only else None
    with tempfile.TemporaryDirectory(prefix="tokenworks-disk-", dir=".") as disk:
        folder = Path(disk).resolve() / "kv"
        every = systems(options, folder)
        runs = {
            name: run(turns, name, *every[name], options.speed) for name in every if wanted is None or name in wanted
        }
        table = as_they_came if options.speed else one_by_one
        if BASE in runs or options.speed:
            print("", *table(runs), sep="\n")
        if BASE in runs and options.speed:
            print("", offered(runs[BASE], (turns[-1].arrival_s - turns[0].arrival_s) / options.speed), sep="\n")
        if not options.speed and (wanted is None or RESTART in wanted):
            shutil.rmtree(folder, ignore_errors=True)
            runs |= after_restart(turns, every["disk"][0], folder)
    if options.json:
        rows = {"turns": [asdict(turn) for turn in turns], "runs": {name: asdict(each) for name, each in runs.items()}}
        options.json.write_text(json.dumps(rows) + "\n")


def chosen(options: argparse.Namespace) -> list[Turn]:
    """The turns to replay."""
    most = options.conversations or (sys.maxsize if options.speed else CONVERSATIONS)
    turns = turns_of(read_trace(options.trace), options.length, most, 4, MOST_TOKENS, options.every)
    until_s = turns[0].arrival_s + options.speed * options.seconds if options.speed else math.inf
    return [turn for turn in turns if turn.arrival_s < until_s]


if __name__ == "__main__":
    main()
