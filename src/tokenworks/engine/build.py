"""Builds an engine from a checkpoint directory and settings: what is derived at start is derived here.

Arithmetic: the checkpoint's own dtype where this CPU has instructions for it (bf16), else float32. KV memory: what
`kv_bytes` says, or a share of the memory that is free once the weights are packed, but never more than full batches of
full windows could fill. The window: the model's, or what fits the KV memory, whichever is less.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.memory import free_memory_bytes, store_memory_bytes
from tokenworks.engine.checkpoint import name_of
from tokenworks.engine.engine import Engine, Model
from tokenworks.engine.model_config import ModelConfig, read_model_config
from tokenworks.engine.models.decoder import Decoder, Progress
from tokenworks.engine.native.step import NativeDecoder
from tokenworks.engine.native.support import matrix_rows, unsupported
from tokenworks.engine.weights import open_weights
from tokenworks.policy.limits import Limits
from tokenworks.policy.speculation import Speculator

log = logging.getLogger(__name__)

FREE_MEMORY_SHARE: Final = 0.4
"""Of the free memory, for the KV of all workers of this machine: the rest is for the system, and for growth."""

_NO_STORE: Final = KVSettings()


@dataclass(frozen=True, slots=True)
class Capacity:
    """KV blocks and the window that they allow."""

    num_blocks: int
    max_context_tokens: int


def build_engine(
    directory: Path, settings: EngineSettings, num_workers: int, progress: Progress, kv: KVSettings = _NO_STORE
) -> Engine:
    """Load and pack the model; raises StartupError (CheckpointError) with what to do.

    With `kv.exchange` "any" all engines of one checkpoint give their blocks the same names.
    """
    config = read_model_config(directory)
    dtype = choose_dtype(settings.dtype, config)
    weights = open_weights(directory, config, settings.quantize)
    window = min(settings.max_context_tokens or config.max_context_tokens, config.max_context_tokens)
    model = choose_kernels(settings.kernels, Decoder(config, weights, dtype, window, progress))
    arithmetic = numerics(name_of(dtype), weights.form(dtype), settings.kv_dtype)
    spec = KVSpec(
        fingerprint=weights.fingerprint(arithmetic if kv.exchange == "exact" else None),
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        block_tokens=settings.block_tokens,
        dtype=name_of(dtype) if settings.kv_dtype == "auto" else settings.kv_dtype,
        numerics=arithmetic,
    )
    capacity = plan_capacity(settings, spec, window, free_bytes(kv, num_workers))
    limits = plan_limits(settings, capacity)
    log.info("weights: %s, %d MiB", model.weights, model.num_bytes >> 20)
    log.info(
        "KV: %d blocks of %d tokens in %s; window %d",
        *(capacity.num_blocks, spec.block_tokens, spec.dtype, limits.max_context_tokens),
    )
    speculator = None if settings.speculation == "off" else Speculator()
    return Engine(model, spec, capacity.num_blocks, limits, speculator)


def plan_limits(settings: EngineSettings, capacity: Capacity) -> Limits:
    """What a step and a sequence may take; raises ConfigError for settings at odds with each other.

    A window that is less than what was asked for is told: requests that count on it will be refused.
    """
    if settings.max_context_tokens > capacity.max_context_tokens:
        log.warning(
            "max_context_tokens = %d cannot be had: model and KV memory allow %d; longer requests will be refused",
            *(settings.max_context_tokens, capacity.max_context_tokens),
        )
    try:
        return Limits(
            settings.max_running, settings.max_step_tokens, capacity.max_context_tokens, settings.block_tokens
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def choose_dtype(wanted: str, config: ModelConfig) -> torch.dtype:
    """The dtype of weights, activations and KV."""
    if wanted == "auto":
        is_half = config.dtype in ("bfloat16", "float16")
        return torch.bfloat16 if is_half and has_fast_bf16() else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def numerics(dtype: str, weights: str, kv_dtype: str) -> str:
    """The numerics class: what, besides checkpoint and config, two engines share where their KV is exactly the same.

    Such as "float32", "bfloat16, weights int8" or "bfloat16, KV int8".
    """
    words = [dtype, f"weights {weights}" if weights != dtype else "", f"KV {kv_dtype}" if kv_dtype != "auto" else ""]
    return ", ".join(word for word in words if word)


def choose_kernels(wanted: str, decoder: Decoder) -> Model:
    """The decoder, or its native form; raises ConfigError where that is wanted and cannot be had."""
    reason = unsupported(decoder)
    if wanted == "native" and reason:
        raise ConfigError(f"kernels = native cannot be had: {reason}. Use auto or portable")
    if wanted == "portable" or reason:
        log.info("kernels: portable%s", f", for {reason}" if reason else "")
        return decoder
    log.info("kernels: native")
    return NativeDecoder(decoder, torch.get_num_threads(), matrix_rows(decoder))


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AMX or AVX-512 BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def free_bytes(kv: KVSettings, num_workers: int) -> int:
    """One worker's part of the free memory that the host's store, which may still be taking its own, will leave."""
    to_come = max(0, kv.host_bytes - store_memory_bytes())  # before what is free is read: meanwhile it becomes less
    return max(0, free_memory_bytes() - to_come) // num_workers


def plan_capacity(settings: EngineSettings, spec: KVSpec, window: int, free_bytes: int) -> Capacity:
    """How many blocks to reserve, and the longest sequence that they hold; raises StartupError where none fits."""
    block_bytes = spec.bytes_per_token * spec.block_tokens
    most_useful = settings.max_running * -(-window // spec.block_tokens)
    kv_bytes = settings.kv_bytes or int(free_bytes * FREE_MEMORY_SHARE)
    num_blocks = min(kv_bytes // block_bytes, most_useful)
    if num_blocks < 1:
        raise StartupError(
            f"no KV block fits: one takes {block_bytes:,} bytes, {kv_bytes:,} are given. Raise kv_bytes, or free memory"
        )
    return Capacity(num_blocks, min(window, num_blocks * spec.block_tokens))
