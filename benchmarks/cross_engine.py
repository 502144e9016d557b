"""Prefill on one engine, decode on another: how far the logits move, for all ordered pairs of engines and precisions.

    python benchmarks/cross_engine.py [CHECKPOINT] [--prompt 512] [--tokens 64]

A prompt is computed by one engine, its KV goes to the other as neutral blocks (converted where the dtypes differ), and
the other computes the text that follows, token by token: what our own engine says in float32, greedily. Its logits are
compared with those that it gives where it has computed the prompt itself: largest and mean difference, Kullback-Leibler
divergence in nats, and how often the most likely token is the same. So a row shows what the exchange costs, and not
what the precision costs that the decoding engine has anyway: that is the second part, against float32 throughout. The
prompt is a whole number of blocks and one token more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenworks.worker.environment import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tokenworks.contract.config import EngineSettings, KVSettings  # noqa: E402
from tokenworks.contract.kv import KVSpec  # noqa: E402
from tokenworks.engine.batch import DecodeRows, PrefillChunk, StepBatch  # noqa: E402
from tokenworks.engine.build import build_engine  # noqa: E402
from tokenworks.engine.engine import Engine  # noqa: E402
from tokenworks.engine.kernels.threads import set_threads  # noqa: E402
from tokenworks.engine.openvino.build import build_openvino_engine  # noqa: E402
from tokenworks.kv.convert import convert  # noqa: E402
from tokenworks.worker.process import choose_threads  # noqa: E402

EMBEDDED: Final = Path(__file__).parent.parent / "src" / "tokenworks" / "embedded"
BLOCK_TOKENS: Final = 32
REFERENCE: Final = "ours, float32"
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    REFERENCE: {"dtype": "float32"},
    "ours, bf16": {"dtype": "bfloat16"},
    "ours, bf16, KV int8": {"dtype": "bfloat16", "kv_dtype": "int8"},
    "ours, bf16, weights int8": {"dtype": "bfloat16", "quantize": "int8"},
    "OpenVINO, float32": {"dtype": "float32"},
    "OpenVINO, bf16": {"dtype": "bfloat16"},
}


@dataclass(frozen=True)
class Prefill:
    """A prompt's KV as one engine computed it, and the logits after its last token."""

    spec: KVSpec
    payloads: list[bytes]  # of its full blocks
    seconds: float


class Runner:
    """One engine's model and a cache of its own, driven by hand."""

    def __init__(self, engine: Engine, num_blocks: int) -> None:
        self.spec = engine.spec
        self._model = engine.model
        self._num_blocks = num_blocks
        self._cache = engine.model.make_cache(engine.spec, num_blocks)

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> Prefill:
        """Compute all but the last token, and copy the blocks out."""
        start_s = time.perf_counter()
        for start in range(0, len(prompt) - 1, 512):
            self._model(_chunk(prompt[start : min(start + 512, len(prompt) - 1)], start), self._cache)
        seconds = time.perf_counter() - start_s
        payloads = []
        for block in range((len(prompt) - 1) // BLOCK_TOKENS):
            payload = bytearray(self.spec.bytes_per_block)
            self._cache.read_block(block, memoryview(payload))
            payloads.append(bytes(payload))
        return Prefill(self.spec, payloads, seconds)

    def take(self, prefill: Prefill) -> None:
        """Fill the cache with another engine's blocks."""
        payload = bytearray(self.spec.bytes_per_block)
        for block, theirs in enumerate(prefill.payloads):
            convert(memoryview(theirs), prefill.spec, self.spec, memoryview(payload))
            self._cache.write_block(block, memoryview(payload))

    @torch.inference_mode()
    def decode(self, token_ids: list[int], start: int) -> Tensor:
        """Logits after each of `token_ids`, which stand at `start` and behind: float32 [tokens, vocab]."""
        rows = [self._model(self._row(token, start + at), self._cache)[0].clone() for at, token in enumerate(token_ids)]
        return torch.stack(rows)

    @torch.inference_mode()
    def greedy(self, first: int, start: int, count: int) -> list[int]:
        """`first`, and the `count` tokens that follow it."""
        tokens = [first]
        for position in range(start, start + count):
            tokens.append(int(self._model(self._row(tokens[-1], position), self._cache)[0].argmax()))
        return tokens

    def _row(self, token: int, position: int) -> StepBatch:
        blocks = np.arange(self._num_blocks, dtype=np.int32)[None]
        rows = DecodeRows(blocks, np.array([position + 1], np.int32), np.zeros(1, np.int32))
        at = torch.tensor([position])
        return StepBatch(torch.tensor([token]), at, at, torch.tensor([0]), rows, ())


def _chunk(token_ids: list[int], start: int) -> StepBatch:
    """Some of a prompt's tokens, whose KV lies in slots 0, 1, ..."""
    nothing = DecodeRows(np.zeros((0, 0), np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    end = start + len(token_ids)
    at, slots = torch.arange(start, end), torch.arange(end)
    chunk = PrefillChunk(0, len(token_ids), start, slots)
    return StepBatch(torch.tensor(token_ids), at, at, torch.tensor([len(token_ids) - 1]), nothing, (chunk,))


@dataclass(frozen=True)
class Drift:
    """How far logits [tokens, vocab] are from others."""

    largest: float
    mean: float
    divergence: float  # nats
    agreement: float  # share of tokens with the same most likely token

    @classmethod
    def between(cls, found: Tensor, expected: Tensor) -> Drift:
        """Of `found` from `expected`."""
        off = (found - expected).abs()
        log_found, log_expected = found.double().log_softmax(-1), expected.double().log_softmax(-1)
        nats = (log_expected.exp() * (log_expected - log_found)).sum(-1).mean()
        same = (found.argmax(-1) == expected.argmax(-1)).double().mean()
        return cls(float(off.max()), float(off.mean()), float(nats), float(same))

    def cells(self) -> str:
        """Of a table row."""
        return f"{self.largest:.4f} | {self.mean:.5f} | {self.divergence:.2e} | {100 * self.agreement:.0f} %"


def build(name: str, directory: Path, num_tokens: int) -> Runner:
    """The variant's engine as `serve` would build it, and room for `num_tokens`."""
    num_blocks = -(-num_tokens // BLOCK_TOKENS)
    settings = EngineSettings(
        **VARIANTS[name],
        block_tokens=BLOCK_TOKENS,
        kv_bytes=64 << 20,
        max_context_tokens=num_blocks * BLOCK_TOKENS,
        speculation="off",
    )
    if name.startswith("ours"):
        return Runner(build_engine(directory, settings, 1, _ignore, KVSettings(exchange="any")), num_blocks)
    kv = KVSettings(exchange="any")
    return Runner(build_openvino_engine(directory, settings, kv, "CPU", 1, _ignore), num_blocks)


def _ignore(done: int, total: int) -> None:
    """Nobody watches."""


def compare(directory: Path, prompt: list[int], num_tokens: int) -> Iterator[tuple[str, str, Drift, Drift]]:
    """(prefill on, decode on, drift from its own prefill, drift from float32); one engine in memory at a time."""
    room = len(prompt) + num_tokens + 1
    start = len(prompt) - 1
    prefills: dict[str, Prefill] = {}
    text: list[int] = []
    for name in VARIANTS:
        runner = build(name, directory, room)
        prefills[name] = runner.prefill(prompt)
        print(f"{name}: prompt in {prefills[name].seconds:.2f} s", file=sys.stderr)
        text = text or runner.greedy(prompt[-1], start, num_tokens)[:-1]
    exact = None
    for name in VARIANTS:
        runner = build(name, directory, room)
        logits = {}
        for source in VARIANTS:
            runner.take(prefills[source])
            logits[source] = runner.decode(text, start)
        exact = logits[name] if exact is None else exact
        for source in VARIANTS:
            yield source, name, Drift.between(logits[source], logits[name]), Drift.between(logits[source], exact)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=EMBEDDED, help="folder; the embedded model if none")
    parser.add_argument("--prompt", type=int, default=512, help="tokens that are handed over")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded behind them")
    options = parser.parse_args(arguments)
    set_threads(choose_threads(EngineSettings()))
    prompt = prompt_tokens(options.checkpoint, options.prompt // BLOCK_TOKENS * BLOCK_TOKENS + 1)
    columns = "largest | mean | KL, nats | same token"
    print(f"{options.checkpoint.resolve().name}: {len(prompt)} prompt tokens, {options.tokens} decoded\n")
    print(f"| prefill on | decode on | {columns} | from float32: {columns} |\n|---|---|{'---:|' * 8}")
    for source, target, alone, exact in compare(options.checkpoint, prompt, options.tokens):
        print(f"| {source} | {target} | {alone.cells()} | {exact.cells()} |", flush=True)


def prompt_tokens(directory: Path, count: int) -> list[int]:
    """This project's README, again where it is too short, as the checkpoint's tokens."""
    from tokenizers import Tokenizer

    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text).ids
    return [int(token) for token in (ids * (count // len(ids) + 1))[:count]]


if __name__ == "__main__":
    main()
