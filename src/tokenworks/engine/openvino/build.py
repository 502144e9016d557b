"""Builds an engine whose model OpenVINO computes, from the checkpoint directory that our own engine reads.

What is derived at start is derived as in `engine/build.py`: arithmetic, KV capacity, window, names of blocks. Both
engines are one numerics class in float32, so that a pool of exact exchange mixes them; in bf16 each rounds in places of
its own, and shares blocks with the other only under `kv.exchange = any`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.contract.errors import CheckpointError, ConfigError, StartupError
from tokenworks.contract.kv import KVSpec
from tokenworks.engine.build import choose_dtype, free_memory_bytes, numerics, plan_capacity, plan_limits
from tokenworks.engine.checkpoint import EMBEDDING, WeightSource, name_of
from tokenworks.engine.engine import Engine
from tokenworks.engine.model_config import ModelConfig, read_model_config
from tokenworks.engine.models.decoder import Progress
from tokenworks.engine.openvino.cache import check_block_tokens
from tokenworks.engine.openvino.constants import ELEMENT_TYPES, Constants
from tokenworks.engine.openvino.graph import build_graph
from tokenworks.engine.openvino.library import open_core, ov
from tokenworks.engine.openvino.model import OpenVINOModel
from tokenworks.engine.rope import rope_table
from tokenworks.engine.weights import open_weights
from tokenworks.policy.speculation import Speculator

log = logging.getLogger(__name__)


def build_openvino_engine(
    directory: Path, settings: EngineSettings, kv: KVSettings, device: str, num_workers: int, progress: Progress
) -> Engine:
    """Read, build and compile the model; raises StartupError (CheckpointError, ConfigError) with what to do."""
    check_settings(settings)
    core = open_core(device)
    config = read_model_config(directory)
    check_config(config, directory)
    dtype = choose_dtype(settings.dtype, config)
    weights = open_weights(directory, config, settings.quantize)
    window = min(settings.max_context_tokens or config.max_context_tokens, config.max_context_tokens)
    properties = compile_properties(dtype, settings.threads)
    model = load_model(core, device, properties, config, weights, dtype, window, progress)
    arithmetic = numerics_class(numerics(name_of(dtype), weights.form(dtype), settings.kv_dtype))
    spec = KVSpec(
        fingerprint=weights.fingerprint(arithmetic if kv.exchange == "exact" else None),
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        block_tokens=settings.block_tokens,
        dtype=name_of(dtype),
        numerics=arithmetic,
    )
    capacity = plan_capacity(settings, spec, window, free_memory_bytes() // num_workers)
    limits = plan_limits(settings, capacity)
    log.info(
        "OpenVINO %s on %s: %s, weights %s, %d MiB; KV: %d blocks of %d tokens in %s; window %d",
        *(ov.__version__, device, name_of(dtype), model.weights, model.num_bytes >> 20),
        *(capacity.num_blocks, spec.block_tokens, spec.dtype, limits.max_context_tokens),
    )
    speculator = None if settings.speculation == "off" else Speculator()
    return Engine(model, spec, capacity.num_blocks, limits, speculator)


def check_settings(settings: EngineSettings) -> None:
    """Raises ConfigError for what this engine does not do."""
    check_block_tokens(settings.block_tokens)
    if settings.kv_dtype != "auto":
        raise ConfigError(f"kv_dtype = {settings.kv_dtype} is not had with OpenVINO: leave it at auto")
    if settings.kernels != "auto":
        raise ConfigError(f"kernels = {settings.kernels} is of our own engine: leave it at auto with OpenVINO")


def check_config(config: ModelConfig, directory: Path) -> None:
    """Raises CheckpointError for what the graph cannot say."""
    if config.experts is not None:
        raise CheckpointError(
            f"{directory}: {config.architecture} with experts is not run on OpenVINO yet; take runs = tokenworks"
        )


def numerics_class(arithmetic: str) -> str:
    """float32 is float32 in every engine; anything else rounds here as it does nowhere else."""
    return arithmetic if arithmetic == "float32" else f"OpenVINO {arithmetic}"


def compile_properties(dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """What the plugin is told. One stream of all threads: the engine computes one step at a time."""
    kind = "bf16" if dtype == torch.bfloat16 else "f32"
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": kind,
        "KV_CACHE_PRECISION": kind,
        "INFERENCE_NUM_THREADS": threads or len(os.sched_getaffinity(0)),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the process has been given its cores already
    }
    if dtype == torch.float32:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # rounds activations of int8 weights, float32 or not
    return properties


def load_model(
    core: Any,
    device: str,
    properties: dict[str, Any],
    config: ModelConfig,
    weights: WeightSource,
    dtype: torch.dtype,
    window: int,
    progress: Progress,
) -> OpenVINOModel:
    """The compiled model; raises StartupError where OpenVINO refuses the graph."""
    constants = Constants(weights, dtype)
    table = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    weights.read(table)  # to be hashed; the mapping that is kept has touched no page yet
    try:
        graph = build_graph(config, constants, ELEMENT_TYPES[dtype], progress)
        compiled = core.compile_model(graph, device, properties)
    except RuntimeError as error:
        raise StartupError(
            f"OpenVINO {ov.__version__} refuses the model; this program is tested with 2026.4: {error}"
        ) from error
    embedding = weights.read(table)[EMBEDDING]
    return OpenVINOModel(
        compiled, config, embedding, rope_table(config, window), weights.form(dtype), dtype, constants.num_bytes
    )
