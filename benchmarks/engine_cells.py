"""The engine on the cells that CPU engines are compared on: prefill and decode tokens/s by batch and length.

    python benchmarks/engine_cells.py CHECKPOINT                                  this engine
    python benchmarks/engine_cells.py CHECKPOINT --rounds 3 --peer 'NAME=COMMAND' ...    and peers, in turn

A peer's COMMAND prints one line a cell, such as `prefill 1x512: 890.1 tok/s` or `decode 8 at 16: 120.3 tok/s`. Engines
take turns, round by round, each in a process of its own, so that the machine is as kind to all; the table shows the
median of the rounds and our ratio to the best peer. Prompts are random token ids, so nothing is found in a cache.
Decode tokens/s are those of 64 steps: the time for 65 new tokens less the time for 1.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

PREFILL = [(1, 512), (4, 512), (1, 2048)]
DECODE = [(1, 16), (8, 16), (32, 16), (1, 512), (8, 512), (32, 512), (8, 2000)]
STEPS = 64
LINE = re.compile(r"^(prefill \d+x\d+|decode \d+ at \d+): ([\d.]+) tok/s")
OURS = "tokenworks"


def run_ours(checkpoint: Path) -> None:
    """Print every cell of this engine; in a process of its own."""
    from tokenworks.worker.environment import prepare_environment

    prepare_environment()
    from tokenworks.contract.config import EngineSettings
    from tokenworks.contract.request import Request, Sampling
    from tokenworks.engine.build import build_engine
    from tokenworks.engine.kernels.threads import set_threads
    from tokenworks.worker.measure import measure_card
    from tokenworks.worker.process import choose_threads

    settings = EngineSettings(max_context_tokens=4096, speculation="off")  # a step gives one token a sequence
    set_threads(choose_threads(settings))
    engine = build_engine(checkpoint, settings, 1, lambda done, total: None)

    def run(batch: int, length: int, new_tokens: int) -> float:
        for index in range(batch):
            prompt = [random.randint(100, 30000) for _ in range(length)]
            engine.add(Request(f"r{index}", "", prompt, Sampling(max_tokens=new_tokens, temperature=0)))
        start = time.perf_counter()
        while engine.has_work:
            engine.step()
        return time.perf_counter() - start

    measure_card(engine, settings, choose_threads(settings))  # as every worker does at start; it builds the kernels
    for batch, length in PREFILL:
        print(f"prefill {batch}x{length}: {batch * length / run(batch, length, 1):.1f} tok/s", flush=True)
    for batch, length in DECODE:
        first = run(batch, length, 1)
        seconds = run(batch, length, STEPS + 1) - first
        print(f"decode {batch} at {length}: {batch * STEPS / seconds:.1f} tok/s", flush=True)


def cells_of(command: str) -> dict[str, float]:
    """Run one engine once; its cells. What it says besides goes to stderr."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    cells = {match[1]: float(match[2]) for line in done.stdout.splitlines() if (match := LINE.match(line))}
    if done.returncode or not cells:
        print(f"failed ({done.returncode}): {command}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}", file=sys.stderr)
    return cells


def compare(commands: dict[str, str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Engine -> cell -> one value a round."""
    values: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
            for cell, value in cells_of(command).items():
                values[name][cell].append(value)
    return values


def table(values: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: medians (least to most), and our ratio to the best peer in each cell."""
    names = list(values)
    lines = [f"| cell, tokens/s | {' | '.join(names)} | ratio to the best peer |", "|---|" + "---:|" * (len(names) + 1)]
    for cell in values[OURS]:
        shown = [_spread(values[name].get(cell, [])) for name in names]
        peers = [statistics.median(values[name][cell]) for name in names if name != OURS and values[name].get(cell)]
        ratio = f"{statistics.median(values[OURS][cell]) / max(peers):.2f}" if peers else "-"
        lines.append(f"| {cell} | {' | '.join(shown)} | {ratio} |")
    return "\n".join(lines)


def _spread(rounds: list[float]) -> str:
    if not rounds:
        return "-"
    return f"{statistics.median(rounds):.1f} ({min(rounds):.0f} to {max(rounds):.0f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--only-ours", action="store_true", help="print this engine's cells once, and nothing else")
    parser.add_argument("--json", type=Path, help="write every value of every round here")
    options = parser.parse_args()
    if options.only_ours:
        run_ours(options.checkpoint)
        return
    commands = {OURS: f"{sys.executable} {__file__} {options.checkpoint} --only-ours"}
    commands |= dict(peer.split("=", 1) for peer in options.peer)
    values = compare(commands, options.rounds)
    print(table(values))
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
