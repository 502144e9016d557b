"""Measures the card: a few seconds of real steps on the real engine, and its peaks, before the worker says hello.

Points are taken from cheap to dear and stop when the time is up, so that a slow model on a small machine still starts
soon, with fewer points.
"""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from tokenworks.contract.card import Card, DecodePoint, PrefillPoint
from tokenworks.contract.config import EngineSettings
from tokenworks.contract.request import Request, Sampling
from tokenworks.engine.engine import Engine
from tokenworks.worker.fit import fitted_card
from tokenworks.worker.peaks import measure_peaks

BUDGET_S: Final = 3.0
DECODE_STEPS: Final = 4  # per point; the median counts

GREEDY: Final = Sampling(max_tokens=DECODE_STEPS + 2, temperature=0)
EVERY_KERNEL: Final = Sampling(
    max_tokens=DECODE_STEPS + 2, top_p=0.9, top_k=20, min_p=0.01, repetition_penalty=1.1, num_logprobs=2
)


class CardMeasurement:
    """Runs made-up prompts through an idle engine and keeps the step times."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._engine = engine
        self._clock = clock
        self._deadline = clock() + BUDGET_S
        self._random = random.Random(0)
        self._count = 0
        self._sampling = GREEDY
        self.prefill_points: list[PrefillPoint] = []
        self.decode_points: list[DecodePoint] = []

    def run(self) -> None:
        """Take points until they are all taken or the time is up; the engine is left as it was found."""
        with self._engine.plain_steps():
            self._take_points()
        self._engine.reset_cache()
        self._engine.take_block_changes()

    def _take_points(self) -> None:
        limits = self._engine.limits
        longest = min(limits.max_step_tokens, limits.max_context_tokens // 2)
        batch = min(8, limits.max_running)
        self._sampling = EVERY_KERNEL  # is built by its first step, before a client's request waits for it
        self._take(batch, 8, keep=False)
        self._sampling = GREEDY
        self._take(1, 8, keep=False)
        self._deadline = self._clock() + BUDGET_S
        for num_sequences, prompt in ((1, 16), (1, longest // 4), (batch, 16), (1, longest), (1, 2 * longest)):
            if self._clock() < self._deadline and 0 < prompt + DECODE_STEPS + 1 <= limits.max_context_tokens:
                self._take(num_sequences, prompt)

    def _take(self, num_sequences: int, prompt_tokens: int, keep: bool = True) -> None:
        ids = [self._add(prompt_tokens) for _ in range(num_sequences)]
        chunk = self._engine.limits.max_step_tokens
        for start in range(0, num_sequences * prompt_tokens, chunk):
            seconds = self._timed_step()
            if keep and num_sequences == 1:
                new_tokens = min(chunk, prompt_tokens - start)
                self.prefill_points.append(PrefillPoint(new_tokens, start, seconds))
        seconds = float(np.median([self._timed_step() for _ in range(DECODE_STEPS)]))
        if keep:
            self.decode_points.append(DecodePoint(num_sequences, prompt_tokens, seconds))
        for request_id in ids:
            self._engine.cancel(request_id)

    def _add(self, prompt_tokens: int) -> str:
        self._count += 1
        token_ids = [self._random.randrange(self._engine.model.config.vocab_size) for _ in range(prompt_tokens)]
        request = Request(f"card-{self._count}", "", token_ids, self._sampling)
        self._engine.add(request)
        return request.id

    def _timed_step(self) -> float:
        start = self._clock()
        self._engine.step()
        return self._clock() - start


def measure_card(engine: Engine, settings: EngineSettings, threads: int, library: str = "") -> Card:
    """The worker's card. `library`: what computes, such as "OpenVINO CPU", where that is not our own engine."""
    measurement = CardMeasurement(engine)
    measurement.run()
    peaks = measure_peaks(engine.model.dtype, threads)
    return fitted_card(
        measurement.prefill_points,
        measurement.decode_points,
        settings,
        device=f"{library or 'cpu'}: {cpu_name()}",
        threads=threads,
        dtype=str(engine.model.dtype).removeprefix("torch."),
        weights=engine.model.weights,
        weight_bytes=engine.model.num_bytes,
        active_weight_bytes=engine.model.step_bytes(1),
        kv_dtype=engine.spec.dtype,
        kv_bytes_per_token=engine.spec.bytes_per_token,
        kv_capacity_tokens=engine.load.total_blocks * engine.spec.block_tokens,
        peak_flops=peaks.flops,
        peak_bytes_per_s=peaks.bytes_per_s,
    )


def cpu_name() -> str:
    """The processor's model name, as /proc/cpuinfo or the platform has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
