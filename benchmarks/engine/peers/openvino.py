"""OpenVINO GenAI as a session: its continuous-batching pipeline, stepped by hand.

Defaults stand but for what fairness asks: no prefix cache, and KV that holds the cells. KV is 8-bit by default there.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from benchmarks.engine.runner import Job, Session, run


class OpenVINOSession:
    """The pipeline and the handles of what runs in it."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._handles: list[Any] = []
        self._count = 0

    def submit(self, prompts: list[list[int]], max_tokens: int) -> None:
        """See Session."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        self._handles = []
        for prompt in prompts:
            self._count += 1
            ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
            self._handles.append(self._pipeline.add_request(self._count, ids, config))

    def step(self) -> list[int]:
        """See Session."""
        self._pipeline.step()
        indices = []
        for index, handle in enumerate(self._handles):
            while handle.can_read():
                indices += [index for output in handle.read().values() for _ in output.generated_ids]
        return indices

    def cancel(self) -> None:
        """See Session."""
        for handle in self._handles:
            handle.cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._handles = []

    def counters(self) -> dict[str, float]:
        """See Session."""
        return {}


def load(job: Job) -> tuple[Session, dict[str, Any]]:
    """The pipeline over an exported model's directory."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = job.kv_tokens // 32 + job.max_batch  # its blocks hold 32 tokens on a CPU
    scheduler.enable_prefix_caching = False
    scheduler.max_num_batched_tokens = 2048
    scheduler.max_num_seqs = max(job.max_batch, scheduler.max_num_seqs)
    pipeline = openvino_genai.ContinuousBatchingPipeline(job.model, scheduler, "CPU", {})
    about = {
        "version": version("openvino-genai"),
        "kv": "its default on a CPU, 8-bit",
        "file_bytes": (Path(job.model) / "openvino_model.bin").stat().st_size,
    }
    return OpenVINOSession(pipeline), about


if __name__ == "__main__":
    run(load)
