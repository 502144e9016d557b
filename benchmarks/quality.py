"""What quantisation costs in quality, computed with this engine's own forward pass.

    python benchmarks/quality.py                          perplexity of the embedded model on the text held out from it
    python benchmarks/quality.py --checkpoint DIRECTORY   and how far next-token distributions move on this checkpoint

The held-out text is the one that the embedded model was never trained on (every fortieth entry of the documentation of
the CPython that runs this, see `training/embedded.py`), in rows of 512 tokens. Bars: int8 +0.5 %, int4 +4 % over bf16.
For a checkpoint, the prompts are random token ids and the figure is the Kullback-Leibler divergence of the next-token
distribution from bf16's, in nats, averaged over all positions; float32 against bf16 is the yardstick beside it.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

from tokenworks.worker.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from tokenworks.contract.config import EngineSettings  # noqa: E402
from tokenworks.engine.build import build_engine  # noqa: E402
from tokenworks.engine.engine import Engine  # noqa: E402
from tokenworks.engine.kernels.threads import set_threads  # noqa: E402
from tokenworks.engine.scoring import logits_after_each  # noqa: E402
from tokenworks.worker.process import choose_threads  # noqa: E402
from training.chat import documents  # noqa: E402
from training.corpus import collect  # noqa: E402
from training.embedded import HELD_OUT_EVERY  # noqa: E402

ROW_TOKENS = 512
EMBEDDED = Path(__file__).parent.parent / "src" / "tokenworks" / "embedded"
Dtype = Literal["float32", "bfloat16"]
Quantize = Literal["none", "int8", "int4"]
VARIANTS: dict[str, tuple[Dtype, Quantize]] = {
    "bf16": ("bfloat16", "none"),
    "float32": ("float32", "none"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
BARS = {"int8": 0.5, "int4": 4.0}


def load(checkpoint: Path, variant: str) -> Engine:
    """The engine as `serve` would build it."""
    dtype, quantize = VARIANTS[variant]
    settings = EngineSettings(dtype=dtype, quantize=quantize, kv_bytes=64 << 20, max_context_tokens=ROW_TOKENS)
    with torch.inference_mode():
        return build_engine(checkpoint, settings, 1, lambda done, total: None)


def held_out_rows() -> Iterator[tuple[list[int], torch.Tensor]]:
    """(tokens, the tokens that follow each) of the embedded model's held-out text."""
    entries = [entry for at, entry in enumerate(collect()) if at % HELD_OUT_EVERY == 0]
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    encodings = tokenizer.encode_batch(documents(entries, 0, 0))
    stream = [token for encoding in encodings for token in encoding.ids]
    for at in range(0, len(stream) - ROW_TOKENS, ROW_TOKENS):
        yield stream[at : at + ROW_TOKENS], torch.tensor(stream[at + 1 : at + ROW_TOKENS + 1])


def nats_per_token(engine: Engine, rows: list[tuple[list[int], torch.Tensor]]) -> float:
    """Mean negative log-likelihood."""
    total = 0.0
    for tokens, targets in rows:
        logits = logits_after_each(engine.model, engine.spec, tokens)
        total += torch.nn.functional.cross_entropy(logits, targets).item()
    return total / len(rows)


def print_perplexities() -> None:
    """One line a variant."""
    rows = list(held_out_rows())
    print(f"embedded model, {len(rows)} rows of {ROW_TOKENS} held-out tokens\n")
    print("| weights | nats/token | perplexity | over bf16 | bar | MiB of weights |\n|---|---:|---:|---:|---:|---:|")
    base = math.nan
    for name in VARIANTS:
        engine = load(EMBEDDED, name)
        nats = nats_per_token(engine, rows)
        base = nats if name == "bf16" else base
        over = 100 * math.expm1(nats - base)
        bar = f"+{BARS[name]:.1f} %" if name in BARS else ""
        mib = engine.model.num_bytes / (1 << 20)
        print(f"| {name} | {nats:.4f} | {math.exp(nats):.3f} | {over:+.2f} % | {bar} | {mib:.1f} |", flush=True)


def print_divergences(checkpoint: Path, num_rows: int, row_tokens: int) -> None:
    """One line a variant; bf16's distributions are kept, the models are loaded one after another."""
    rng = random.Random(0)
    expected: list[torch.Tensor] = []
    prompts: list[list[int]] = []
    print(f"\n{checkpoint.name}, {num_rows} prompts of {row_tokens} random tokens\n")
    print("| weights | KL from bf16, nats | same most likely token | MiB of weights |\n|---|---:|---:|---:|")
    for name in VARIANTS:
        engine = load(checkpoint, name)
        if not prompts:
            vocab = engine.model.config.vocab_size
            prompts = [[rng.randrange(vocab) for _ in range(row_tokens)] for _ in range(num_rows)]
        found = [torch.log_softmax(logits_after_each(engine.model, engine.spec, p), -1) for p in prompts]
        expected = expected or found
        mib = engine.model.num_bytes / (1 << 20)
        del engine
        kl = [(e.exp() * (e - f)).sum(-1) for e, f in zip(expected, found, strict=True)]
        same = [e.argmax(-1) == f.argmax(-1) for e, f in zip(expected, found, strict=True)]
        share = torch.cat(same).float().mean()
        print(f"| {name} | {torch.cat(kl).mean():.5f} | {100 * share:.1f} % | {mib:.0f} |", flush=True)


def main(arguments: list[str] | None = None) -> Any:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    set_threads(choose_threads(EngineSettings()))
    print_perplexities()
    if options.checkpoint:
        print_divergences(options.checkpoint, options.prompts, options.prompt_tokens)


if __name__ == "__main__":
    main()
