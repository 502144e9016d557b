"""This engine as a session: built and warmed as a worker does it, without the processes around it."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engine.runner import Job, Session, run

if TYPE_CHECKING:
    from tokenworks.contract.config import EngineSettings
    from tokenworks.contract.wire import SequenceOutput
    from tokenworks.engine.engine import Engine


class TimedModel:
    """The engine's model, with the seconds spent inside its calls; all else is the model's own."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        """One forward pass."""
        start = time.perf_counter()
        try:
            return self._model(*arguments)
        finally:
            self.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class OurSession:
    """The engine, stepped by hand."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._model = TimedModel(engine.model)
        engine.model = self._model  # type: ignore[assignment]
        self._submissions = 0
        self._index: dict[str, int] = {}

    def submit(self, prompts: list[list[int]], max_tokens: int) -> None:
        """See Session."""
        from tokenworks.contract.request import Request, Sampling

        self._submissions += 1
        self._index = {f"{self._submissions}.{index}": index for index in range(len(prompts))}
        sampling = Sampling(max_tokens=max_tokens, temperature=0)
        for name, prompt in zip(self._index, prompts, strict=True):
            self.engine.add(Request(name, "", prompt, sampling))

    def step(self) -> list[int]:
        """See Session."""
        if not self.engine.has_work:
            raise RuntimeError("every sequence has ended, and tokens are still waited for")
        outputs = self.engine.step()
        for output in outputs:
            _require_success(output)
        return [self._index[output.request_id] for output in outputs for _ in output.token_ids]

    def cancel(self) -> None:
        """See Session."""
        for name in self._index:
            self.engine.cancel(name)

    def counters(self) -> dict[str, float]:
        """See Session."""
        return {"model_s": self._model.seconds}


def _require_success(output: SequenceOutput) -> None:
    if output.end is not None and output.end.error:
        raise RuntimeError(f"a step failed: {output.end.error}")


def load(job: Job) -> tuple[Session, dict[str, Any]]:
    """Build, measure the card (which builds every kernel), and hand over."""
    from tokenworks.worker.environment import prepare_environment

    prepare_environment()
    import torch

    from tokenworks.contract.config import Settings
    from tokenworks.engine.kernels.threads import set_threads
    from tokenworks.worker.measure import measure_card
    from tokenworks.worker.process import load_engine

    settings = engine_settings(job)
    set_threads(job.threads)
    engine = load_engine(Path(job.model), Settings(engine=settings))
    measure_card(engine, settings, job.threads)
    about = {
        "version": f"{version('tokenworks')}, PyTorch {torch.__version__}",
        "weight_bytes": engine.model.num_bytes,
        "kv_bytes_per_token": engine.spec.bytes_per_token,
    }
    return OurSession(engine), about


def engine_settings(job: Job) -> EngineSettings:
    """As a user would serve, with a window and KV that hold the cells; raises msgspec.ValidationError."""
    import msgspec

    from tokenworks.contract.config import EngineSettings
    from tokenworks.engine.model_config import read_model_config

    given: dict[str, Any] = dict(job.settings)
    if job.precision != "bf16":
        given["quantize"] = job.precision
    config = read_model_config(Path(job.model))
    kv_bytes = 4 * config.num_layers * config.num_kv_heads * config.head_dim * job.kv_tokens
    given.setdefault("max_context_tokens", job.window_tokens)
    given.setdefault("kv_bytes", kv_bytes if config.dtype != "float32" else 2 * kv_bytes)
    given.setdefault("max_running", max(EngineSettings().max_running, job.max_batch))
    given.setdefault("threads", job.threads)
    given.setdefault("speculation", "off")  # random models fall into loops, which it would guess: too kind to us
    return msgspec.convert(given, EngineSettings, strict=False)


def missing_setting(precision: str) -> str:
    """Why this build cannot run at `precision`; empty where it can."""
    from tokenworks.contract.config import EngineSettings

    if precision == "bf16" or "quantize" in EngineSettings.__struct_fields__:
        return ""
    return "this build has no engine setting `quantize`"


if __name__ == "__main__":
    run(load)
