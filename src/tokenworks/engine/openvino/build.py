"""Builds an engine whose model OpenVINO computes, from the checkpoint directory that our own engine reads.

What is derived at start is derived as in `engine/build.py`: arithmetic, KV capacity, window, names of blocks. Both
engines are one numerics class in float32, so that a pool of exact exchange mixes them; in bf16 each rounds in places of
its own, and shares blocks with the other only under `kv.exchange = any`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from tokenworks.contract.config import EngineSettings, KVSettings
from tokenworks.contract.errors import CheckpointError, ConfigError
from tokenworks.contract.kv import KVSpec
from tokenworks.engine.batch import DecodeRows, StepBatch
from tokenworks.engine.build import choose_dtype, free_bytes, numerics, plan_capacity, plan_limits
from tokenworks.engine.checkpoint import EMBEDDING, WeightSource, name_of
from tokenworks.engine.engine import Engine
from tokenworks.engine.model_config import ModelConfig, read_model_config
from tokenworks.engine.models.decoder import Progress
from tokenworks.engine.openvino.cache import check_block_tokens
from tokenworks.engine.openvino.constants import ELEMENT_TYPES, Constants
from tokenworks.engine.openvino.device import Device, open_device
from tokenworks.engine.openvino.graph import build_graph
from tokenworks.engine.openvino.library import ov
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
    check_folder(directory)
    config = read_model_config(directory)
    check_config(config, directory)
    dtype = choose_dtype(settings.dtype, config)
    opened = open_device(device, dtype, settings.threads)
    weights = open_weights(directory, config, settings.quantize)
    window = min(settings.max_context_tokens or config.max_context_tokens, config.max_context_tokens)
    model = load_model(opened, config, weights, dtype, window, progress)
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
    warm_up(model, spec)
    capacity = plan_capacity(settings, spec, window, free_bytes(kv, num_workers))
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


def check_folder(directory: Path) -> None:
    """Raises CheckpointError for an exported model: its blocks could not be named as the checkpoint's are."""
    if (directory / "openvino_model.xml").exists():
        raise CheckpointError(
            f"{directory} is a model exported to OpenVINO: point at the Hugging Face checkpoint that it was made from"
        )


def numerics_class(arithmetic: str) -> str:
    """float32 is float32 in every engine; anything else rounds here as it does nowhere else."""
    return arithmetic if arithmetic == "float32" else f"OpenVINO {arithmetic}"


def load_model(
    device: Device, config: ModelConfig, weights: WeightSource, dtype: torch.dtype, window: int, progress: Progress
) -> OpenVINOModel:
    """The compiled model; raises StartupError."""
    constants = Constants(weights, dtype)
    table: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    weights.read(table)  # to be hashed; the mapping that is kept has touched no page yet
    compiled = device.compile(build_graph(config, constants, ELEMENT_TYPES[dtype], progress))
    return OpenVINOModel(
        compiled=compiled,
        config=config,
        embedding=weights.read(table)[EMBEDDING],
        rope=rope_table(config, window),
        weights=weights.form(dtype),
        dtype=dtype,
        num_bytes=constants.num_bytes,
        kept=constants.kept,
    )


@torch.inference_mode()
def warm_up(model: OpenVINOModel, spec: KVSpec) -> None:
    """One step of one token: the plugin packs weights at the first, and KV is planned from the memory that is left."""
    first = torch.zeros(1, dtype=torch.int64)
    rows = DecodeRows(np.zeros((1, 1), np.int32), np.ones(1, np.int32), np.zeros(1, np.int32))
    model(StepBatch(first, first, first, first, rows, ()), model.make_cache(spec, 1))
