"""Trains the embedded model: a small Qwen3 that writes like Python's documentation.

Owns the shape of the model, the schedule and the loop. The text comes from
`training.corpus` and `training.chat`, the tokens from `training.tokenizer`.

The same CPython, torch, thread count and options give the same file on the
same kind of processor; another of these may change the last bits and, after
thousands of steps, the text. `--minutes` measures this machine and prints the
`--steps` that repeat the run. An interrupted run goes on with `--resume`.
Needs torch 2.9 or later, for `torch.optim.Muon`.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from training import tokenizer as bpe
from training.chat import END, END_OF_TEXT, SPECIAL_TOKENS, documents
from training.corpus import collect

ROPE_THETA = 10_000.0
STEP_TOKENS = 2048
ROW_LENGTHS = (256,) * 14 + (512,) * 4 + (1024,) + (2048,)
MATRIX_RATE, OTHER_RATE, FINAL_RATE_FRACTION, WARM_UP_STEPS = 1e-2, 5e-3, 0.02, 40
PIECE_TOKENS = 256
HELD_OUT_EVERY = 40
NUM_TRIAL_STEPS = 16

Optimizers = Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Options:
    """What a person chooses on the command line."""

    out: Path  # folder for the model; the resumable state lies beside it
    steps: int | None  # length of the run; exactly repeatable
    minutes: float  # wall time of the loop, used when steps is not given
    seed: int  # of the weights, the questions and the order of the text
    is_resumed: bool  # go on from the state beside `out`


@dataclass(frozen=True)
class Data:
    """Token streams with one id per element, and the characters that the held-out one stands for."""

    train: Tensor
    held_out: Tensor
    held_out_chars: int


def main() -> None:
    """Trains, evaluates and writes the model."""
    options = _options()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer, data = _prepare(options.seed)
    bpe.save(tokenizer, options.out)
    steps = options.steps or _steps_within(options.minutes, data)
    print(f"{len(data.train)} tokens to train on, {len(data.held_out)} held out; {steps} steps of {STEP_TOKENS} tokens")
    model = _build(options.seed)
    _fit(model, data, steps, options)
    export(model, options.out)
    _state_path(options.out).unlink(missing_ok=True)
    _report(model, data)


def _options() -> Options:
    parser = argparse.ArgumentParser(description="Train the embedded model on Python's documentation.")
    parser.add_argument("--out", type=Path, default=Path("build/embedded"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    return Options(given.out, given.steps, given.minutes, given.seed, given.resume)


def _prepare(seed: int) -> tuple[Tokenizer, Data]:
    entries = collect()
    held_out = documents([entry for at, entry in enumerate(entries) if at % HELD_OUT_EVERY == 0], seed, 0)
    train = documents([entry for at, entry in enumerate(entries) if at % HELD_OUT_EVERY], seed)
    tokenizer = bpe.train(train)
    return tokenizer, Data(_encode(tokenizer, train), _encode(tokenizer, held_out), sum(map(len, held_out)))


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    return torch.tensor([token for encoding in tokenizer.encode_batch(list(texts)) for token in encoding.ids])


def _build(seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=bpe.VOCAB_SIZE,
            hidden_size=256,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            intermediate_size=768,
            max_position_embeddings=bpe.MAX_POSITIONS,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            pad_token_id=SPECIAL_TOKENS.index(END_OF_TEXT),
            eos_token_id=SPECIAL_TOKENS.index(END),
            bos_token_id=None,
        )
    )


def _steps_within(minutes: float, data: Data) -> int:
    """The number of steps that fit in a wall time, from a short trial on a throw-away model."""
    model = _build(0)
    optimizers = _optimizers(model)
    for step in range(-3, NUM_TRIAL_STEPS):
        if step == 0:
            started = time.monotonic()
        _step(model, optimizers, data.train[: STEP_TOKENS + 1], ROW_LENGTHS[step])
    step_s = (time.monotonic() - started) / NUM_TRIAL_STEPS
    print(f"{STEP_TOKENS / step_s:.0f} tokens/s")
    return max(1, int(60 * minutes / step_s))


def _optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest.

    At equal processor time Muon was half a nat below AdamW alone after 85 steps, its own cost included.
    """
    inner = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if not any(weight is matrix for matrix in inner)]
    return [
        torch.optim.Muon(inner, lr=MATRIX_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _fit(model: Qwen3ForCausalLM, data: Data, steps: int, options: Options) -> None:
    optimizers = _optimizers(model)
    first = _resume(model, optimizers, options.out) if options.is_resumed else 0
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("training", total=steps, completed=first)
        for step in range(first, steps):
            _set_rates(optimizers, _rate_fraction(step, steps))
            tokens, row_length = _batch(data.train, step, options.seed)
            loss = _step(model, optimizers, tokens, row_length)
            progress.update(task, advance=1, description=f"loss {loss:.3f}")
            if (step + 1) % max(1, steps // 10) == 0:
                _checkpoint(model, optimizers, step + 1, options.out)
                progress.console.print(f"step {step + 1}: loss {loss:.3f}, held out {held_out_loss(model, data):.3f}")


def _step(model: Qwen3ForCausalLM, optimizers: Optimizers, tokens: Tensor, row_length: int) -> float:
    loss = _backward(model, tokens[:-1].view(-1, row_length), tokens[1:])
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss


def _backward(model: Qwen3ForCausalLM, rows: Tensor, targets: Tensor) -> float:
    """Accumulates the gradient; the logits are made and dropped in pieces that fit the cache (a fifth faster)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=rows, use_cache=False).last_hidden_state.flatten(0, 1)
    leaf, total = hidden.detach().requires_grad_(), 0.0
    for at in range(0, len(targets), PIECE_TOKENS):
        piece = slice(at, at + PIECE_TOKENS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.lm_head(leaf[piece])
        loss = cross_entropy(logits, targets[piece], reduction="sum") / len(targets)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.autograd.backward(hidden, leaf.grad)
    return total


def _loss(model: Qwen3ForCausalLM, rows: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=rows, use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), targets)


def _rate_fraction(step: int, steps: int) -> float:
    """Linear warm-up to 1, then a cosine down to `FINAL_RATE_FRACTION`."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    done = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return FINAL_RATE_FRACTION + (1 - FINAL_RATE_FRACTION) * (1 + math.cos(math.pi * done)) / 2


def _set_rates(optimizers: Optimizers, fraction: float) -> None:
    for optimizer, peak in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * fraction


def _batch(stream: Tensor, step: int, seed: int) -> tuple[Tensor, int]:
    """The tokens of a step and the length of its rows, a function of the step alone so that a run can be resumed."""
    per_epoch = (len(stream) - 1) // STEP_TOKENS - 1
    epoch, at = divmod(step, per_epoch)
    rng = np.random.default_rng([seed, epoch])
    offset = int(rng.integers(STEP_TOKENS))
    start = offset + STEP_TOKENS * int(rng.permutation(per_epoch)[at])
    return stream[start : start + STEP_TOKENS + 1], int(rng.permuted(np.resize(ROW_LENGTHS, per_epoch))[at])


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, data: Data) -> float:
    """Nats per token of the held-out stream in rows of 512 tokens."""
    num_rows = (len(data.held_out) - 1) // 512
    losses = [
        _loss(model, data.held_out[at : at + 512].view(1, -1), data.held_out[at + 1 : at + 513]).item()
        for at in range(0, num_rows * 512, 512)
    ]
    return sum(losses) / num_rows


def _checkpoint(model: Qwen3ForCausalLM, optimizers: Optimizers, step: int, out: Path) -> None:
    state = {"model": model.state_dict(), "optimizers": [each.state_dict() for each in optimizers], "step": step}
    torch.save(state, _state_path(out))
    export(model, out)


def _resume(model: Qwen3ForCausalLM, optimizers: Optimizers, out: Path) -> int:
    state = torch.load(_state_path(out), weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _state_path(out: Path) -> Path:
    return out.with_suffix(".state.pt")


def export(model: Qwen3ForCausalLM, out: Path) -> None:
    """Writes the weights in bfloat16 with the model's configuration."""
    copy = Qwen3ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.bfloat16()
    stops = [SPECIAL_TOKENS.index(END), SPECIAL_TOKENS.index(END_OF_TEXT)]
    copy.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=stops[1], do_sample=True)  # type: ignore[no-untyped-call]
    copy.generation_config.temperature = 0.7
    copy.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    config = json.loads((out / "config.json").read_text())
    # Readers of the older layout of this file look for these names.
    bpe.write_json(out / "config.json", config | {"torch_dtype": "bfloat16", "rope_theta": ROPE_THETA})


def _report(model: Qwen3ForCausalLM, data: Data) -> None:
    loss = held_out_loss(model, data)
    bits_per_char = loss / math.log(2) * len(data.held_out) / data.held_out_chars
    print(f"held out: {loss:.4f} nats/token, perplexity {math.exp(loss):.2f}, {bits_per_char:.3f} bits/character")


if __name__ == "__main__":
    main()
