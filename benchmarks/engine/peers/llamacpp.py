"""llama.cpp as a session: its server, in this process, streaming to one thread a sequence.

The wheel is a generic build (AVX2, no AVX-512, no AMX) and its server has no steps to call: a step here is the tokens
that have come since the last one.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xllamacpp

from benchmarks.engine.runner import Job, Session, run

STALL_S = 600.0  # without a single token: the server is stuck


class LlamaSession:
    """The server, and a queue of the sequences that got a token."""

    def __init__(self, server: Any, max_batch: int) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(max_batch)
        self._arrivals: queue.Queue[int | Exception] = queue.Queue()
        self._running: list[Future[None]] = []
        self._is_cancelled = False

    def submit(self, prompts: list[list[int]], max_tokens: int) -> None:
        """See Session."""
        self._arrivals, self._is_cancelled = queue.Queue(), False
        self._running = [
            self._threads.submit(self._generate, index, prompt, max_tokens) for index, prompt in enumerate(prompts)
        ]

    def _generate(self, index: int, prompt: list[int], max_tokens: int) -> None:
        body = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
            "timings_per_token": True,  # says how many tokens there are: text may be held back until it is whole
        }
        try:
            self._server.handle_completions(body, self._receiver(index))
        except Exception as error:
            self._arrivals.put(error)

    def _receiver(self, index: int) -> Callable[[Any], bool]:
        arrivals, seen = self._arrivals, 0

        def receive(chunk: Any) -> bool:
            """Called for each piece of the stream; True ends it."""
            nonlocal seen
            if "timings" not in chunk:
                arrivals.put(RuntimeError(f"the server says: {chunk}"))
                return True
            for _ in range(chunk["timings"]["predicted_n"] - seen):
                arrivals.put(index)
            seen = max(seen, chunk["timings"]["predicted_n"])
            return self._is_cancelled

        return receive

    def step(self) -> list[int]:
        """See Session."""
        arrived = [self._arrivals.get(timeout=STALL_S)]
        while not self._arrivals.empty():
            arrived.append(self._arrivals.get())
        for item in arrived:
            if isinstance(item, Exception):
                raise item
        return [item for item in arrived if isinstance(item, int)]

    def cancel(self) -> None:
        """See Session."""
        self._is_cancelled = True
        wait(self._running)

    def counters(self) -> dict[str, float]:
        """See Session."""
        return {}


def load(job: Job) -> tuple[Session, dict[str, Any]]:
    """The server over a GGUF file, every slot with room for the longest sequence."""
    params = xllamacpp.CommonParams()
    params.model.path = job.model
    params.n_parallel, params.n_ctx = job.max_batch, job.max_batch * (job.window_tokens + 64)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job.threads
    params.n_batch, params.n_ubatch = 2048, 512
    params.cache_ram_mib = 0
    session = LlamaSession(xllamacpp.Server(params), job.max_batch)
    about = {
        "version": f"xllamacpp {version('xllamacpp')}",
        "build": xllamacpp.get_system_info(),
        "file_bytes": Path(job.model).stat().st_size,
    }
    return session, about


if __name__ == "__main__":
    run(load)
