"""What KV in int8 costs in quality, computed with this engine's own forward pass.

    python benchmarks/kv_quality.py [--rows 40]

On text that the embedded model was never trained on (every fortieth entry of the documentation of the CPython that runs
this, see `training/embedded.py`), in rows of 512 tokens: perplexity, and how far the next-token distribution moves from
that with KV in bf16, as Kullback-Leibler divergence in nats averaged over all positions. Each token attends to KV as it
is stored, its own included, so that one step over a row gives what serving the row token by token would. float32, with
its own KV, is the yardstick beside it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from tokenworks.worker.environment import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from torch import Tensor  # noqa: E402

from tokenworks.contract.config import EngineSettings  # noqa: E402
from tokenworks.engine.batch import DecodeRows, PrefillChunk, StepBatch  # noqa: E402
from tokenworks.engine.build import build_engine  # noqa: E402
from tokenworks.engine.engine import Engine  # noqa: E402
from tokenworks.engine.kernels.threads import set_threads  # noqa: E402
from tokenworks.engine.kv_cache import KVCache  # noqa: E402
from tokenworks.worker.process import choose_threads  # noqa: E402
from training.chat import documents  # noqa: E402
from training.corpus import collect  # noqa: E402
from training.embedded import HELD_OUT_EVERY  # noqa: E402

ROW_TOKENS = 512
EMBEDDED = Path(__file__).parent.parent / "src" / "tokenworks" / "embedded"
Dtype = Literal["float32", "bfloat16"]
VARIANTS: dict[str, tuple[Dtype, Literal["auto", "int8"]]] = {
    "bf16": ("bfloat16", "auto"),
    "bf16, KV in int8": ("bfloat16", "int8"),
    "float32": ("float32", "auto"),
    "float32, KV in int8": ("float32", "int8"),
}


@dataclass
class Score:
    """Sums over all positions."""

    positions: int = 0
    nats: float = 0.0  # of the text
    divergence: float = 0.0  # from the first variant, nats
    same_choice: int = 0  # positions at which the most likely token is the first variant's

    def add(self, logits: Tensor, base: Tensor, targets: Tensor) -> None:
        """A row's logits [tokens, vocab], the first variant's, and the tokens that follow."""
        found, expected = logits.log_softmax(-1), base.log_softmax(-1)
        self.positions += len(targets)
        self.nats -= float(found.gather(1, targets[:, None]).sum())
        self.divergence += float((expected.exp() * (expected - found)).sum())
        self.same_choice += int((expected.argmax(-1) == found.argmax(-1)).sum())


def load(variant: str) -> Engine:
    """The engine as `serve` would build it."""
    dtype, kv_dtype = VARIANTS[variant]
    settings = EngineSettings(dtype=dtype, kv_dtype=kv_dtype, kv_bytes=8 << 20, max_context_tokens=ROW_TOKENS)
    return build_engine(EMBEDDED, settings, 1, lambda done, total: None)


def held_out_rows() -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens, the tokens that follow each) of the embedded model's held-out text."""
    entries = [entry for at, entry in enumerate(collect()) if at % HELD_OUT_EVERY == 0]
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    stream = torch.tensor([t for encoding in tokenizer.encode_batch(documents(entries, 0, 0)) for t in encoding.ids])
    for at in range(0, len(stream) - ROW_TOKENS, ROW_TOKENS):
        yield stream[at : at + ROW_TOKENS], stream[at + 1 : at + ROW_TOKENS + 1]


def logits_after_each(engine: Engine, tokens: Tensor) -> Tensor:
    """float32 [tokens, vocab], in one step and KV of its own."""
    count = len(tokens)
    rows = torch.arange(count)
    nothing = DecodeRows(np.zeros((0, 0), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    batch = StepBatch(tokens, rows, rows, rows, nothing, (PrefillChunk(0, count, 0, rows),))
    return engine.model(batch, KVCache(engine.spec, -(-count // engine.spec.block_tokens)))


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> Any:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1 << 30, help="of held-out text; all of it by default")
    options = parser.parse_args(arguments)
    set_threads(choose_threads(EngineSettings()))
    engines = {name: load(name) for name in VARIANTS}
    scores = {name: Score() for name in VARIANTS}
    for tokens, targets in list(held_out_rows())[: options.rows]:
        logits = {name: logits_after_each(engine, tokens) for name, engine in engines.items()}
        for name, score in scores.items():
            score.add(logits[name], logits["bf16"], targets)
    base = scores["bf16"]
    print(f"embedded model, {base.positions} positions of held-out text in rows of {ROW_TOKENS} tokens\n")
    print(
        "| | nats/token | perplexity | over bf16 | KL from bf16, nats | same most likely token | bytes of KV a token |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, score in scores.items():
        print(f"| {name} | {_cells(score, base)} | {engines[name].spec.bytes_per_token:,} |")


def _cells(score: Score, base: Score) -> str:
    count = score.positions
    over = 100 * math.expm1((score.nats - base.nats) / count)
    perplexity = math.exp(score.nats / count)
    share = 100 * score.same_choice / count
    return (
        f"{score.nats / count:.4f} | {perplexity:.3f} | {over:+.3f} % | {score.divergence / count:.6f} | {share:.2f} %"
    )


if __name__ == "__main__":
    main()
