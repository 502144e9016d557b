"""What exchanging KV costs a worker: a block's way in and out against memcpy, and a run without reuse with a store.

    python benchmarks/kv_exchange.py [CHECKPOINT] [--rounds 5]

Blocks: of the Qwen3-0.6B shape, 32 tokens, each another one so that they come from memory; medians, in GB/s of payload,
beside a memcpy of as many bytes in the same rounds. With a checkpoint also: prompts that nobody has seen, computed with
a store and without in turn; the store is a process of its own, as when serving.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zmq

import tokenworks
from tokenworks.contract.config import EngineSettings
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.build import build_engine
from tokenworks.engine.engine import Engine
from tokenworks.engine.kernels.threads import set_threads
from tokenworks.engine.kv_cache import KVCache
from tokenworks.kv.client import KVClient
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal, verify
from tokenworks.worker.kv_exchange import KVExchange
from tokenworks.worker.measure import measure_card

NUM_BLOCKS = 64
NAME = bytes(16)
PROMPT_TOKENS = 500
NUM_PROMPTS = 2


def median_s(work: Callable[[int], object], rounds: int) -> float:
    """Seconds of one call, over calls with 0, 1, ... in turn."""
    times = []
    for index in range(rounds * NUM_BLOCKS):
        start_s = time.perf_counter()
        work(index % NUM_BLOCKS)
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def measure_blocks(dtype: str, rounds: int) -> None:
    """One table of GB/s."""
    spec = KVSpec("model", num_layers=28, num_kv_heads=8, head_dim=128, block_tokens=32, dtype=dtype)
    cache = KVCache(spec, NUM_BLOCKS)
    cache.data.fill_(1)
    size = block_bytes(spec)
    places = [memoryview(bytearray(size)) for _ in range(NUM_BLOCKS)]
    arrays = [np.frombuffer(place, np.uint8) for place in places]
    other = np.ones((NUM_BLOCKS, size), np.uint8)
    copy = memoryview(bytearray(size))

    def publish(index: int) -> None:
        cache.read_block(index, places[index][HEADER_BYTES:])
        seal(places[index], spec, NAME, NAME)

    def fetch(index: int) -> None:
        copy[:] = places[index]
        verify(copy, NAME, "model")
        cache.write_block(index, copy[HEADER_BYTES:])

    ways: dict[str, Callable[[int], object]] = {
        "memcpy": lambda index: np.copyto(other[index], arrays[index]),
        "read_block": lambda index: cache.read_block(index, places[index][HEADER_BYTES:]),
        "write_block": lambda index: cache.write_block(index, places[index][HEADER_BYTES:]),
        "publish: read, seal": publish,
        "fetch: copy, verify, write": fetch,
    }
    for name, work in ways.items():
        print(f"  {dtype:9} {size / 2**20:5.2f} MiB  {name:28} {size / median_s(work, rounds) / 1e9:6.2f} GB/s")


class Timed:
    """An exchange, and the seconds that the loop spends in it."""

    def __init__(self, exchange: KVExchange) -> None:
        self.exchange = exchange
        self.seconds = 0.0

    def step(self, engine: Engine) -> None:
        """One turn of the step loop."""
        start_s = time.perf_counter()
        self.exchange.before_step()
        before_s, steps = time.perf_counter(), engine.steps
        outputs = engine.step()
        after_s = time.perf_counter()
        self.exchange.after_step(outputs)
        self.seconds += before_s - start_s + time.perf_counter() - after_s
        if engine.steps == steps:
            self.exchange.socket.poll(int(1e3 * self.exchange.patience_s(0.1)) + 1)


def serve(engine: Engine, timed: Timed | None, seed: int) -> float:
    """Seconds for prompts that nobody has seen, one after the other, as the step loop runs them."""
    rng = random.Random(seed)
    start_s = time.perf_counter()
    for index in range(NUM_PROMPTS):
        prompt = [rng.randrange(engine.model.config.vocab_size) for _ in range(PROMPT_TOKENS)]
        engine.add(Request(f"{seed}-{index}", "", prompt, Sampling(max_tokens=8, temperature=0)))
        while engine.has_work:
            if timed:
                timed.step(engine)
            else:
                engine.step()
    return time.perf_counter() - start_s


def measure_cost(checkpoint: Path, rounds: int) -> None:
    """Rounds with and without a store in turn; the ratio of medians."""
    threads = len(os.sched_getaffinity(0))
    set_threads(threads)
    settings = EngineSettings(kv_bytes=2 << 30, max_context_tokens=2048, speculation="off")
    engine = build_engine(checkpoint, settings, 1, lambda done, total: None)
    card = measure_card(engine, settings, threads)
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/store"
        command = [sys.executable, "-m", "tokenworks", "kvstore", "--id", "kv0", "--gateway", f"ipc://{folder}/gateway"]
        command += ["--kv-store-address", address, "--kv-host-bytes", "1GiB", "--parent", str(os.getpid())]
        source = str(Path(tokenworks.__file__).parents[1])
        store = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": source})
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        client = KVClient(context, address, "benchmark", engine.spec)
        exchange = KVExchange(engine, client, card)
        while not (client.is_attached and client.speeds):
            exchange.before_step()
            time.sleep(0.05)
        timed = Timed(exchange)
        times: dict[str, list[float]] = {"without": [], "with": []}
        for seed in range(2 * rounds + 2):
            kind = ("without", "with")[seed % 2]
            seconds = serve(engine, timed if kind == "with" else None, seed)
            if seed == 1:
                timed.seconds = 0.0
            if seed > 1:
                times[kind].append(seconds)
        exchange.before_step()
        traffic = exchange.load.kv
        exchange.close()
        context.term()
        store.terminate()
        store.wait()
    plain, stored = (statistics.median(times[kind]) for kind in times)
    ratios = [b / a for a, b in zip(times["without"], times["with"], strict=True)]
    print(f"  {NUM_PROMPTS} prompts of {PROMPT_TOKENS} tokens: {plain:.3f} s without, {stored:.3f} s with a store")
    print(f"  cost of the store, median of pairs: {100 * (statistics.median(ratios) - 1):+.1f} %; all {ratios}")
    print(f"  time that the loop spends in the exchange: {100 * timed.seconds / sum(times['with']):.2f} %; {traffic}")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for dtype in ("bfloat16", "int8"):
        measure_blocks(dtype, arguments.rounds)
    if arguments.checkpoint:
        measure_cost(arguments.checkpoint, arguments.rounds)


if __name__ == "__main__":
    main()
