"""A KV connector for vLLM (0.32, on a CPU) that puts finished blocks into a Tokenworks KV store and takes them from it.

vLLM makes two of these. The scheduler's has the store bring a prompt's blocks into shared memory and verifies them
there (checksum, name, model); only then does it promise them to vLLM. The worker's verifies its own copy once more and
writes it into vLLM's cache, and saves the blocks that a step has finished. Neither waits: vLLM sets a request aside
while its blocks are on their way, and what has not come after `FETCH_S` is computed.

Why verify before promising: vLLM can be told later that a block was bad, and then recomputes it
(`kv_load_failure_policy = recompute`), but with 0.32 and an earlier form of this connector the text was another one
then; whose fault that was is not settled. So the policy must be `fail`, its default: a block that goes bad between the
two checks ends its request with an error, never with wrong text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
import zmq
from blocks import kv_spec
from cpu_layout import CpuLayout, Writer
from scheduler_side import LoadOf, Save, SchedulerSide
from store_line import open_line
from vllm._custom_ops import cpu_attn_reshape_and_cache
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
from worker_side import WorkerSide


@dataclass
class StepMetadata(KVConnectorMetadata):
    """From the scheduler's connector to the worker's."""

    loads: list[LoadOf] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)


class TokenworksConnector(KVConnectorBase_V1):
    """Settings in `kv_connector_extra_config`: `store_address` and `fingerprint`, as the pool's workers have them."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._spec = kv_spec(vllm_config, extra["fingerprint"])
        client_id = f"vllm-{os.getpid()}-{role.name.lower()}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._client = open_line(self._context, extra["store_address"], client_id, self._spec)
        self._scheduler = SchedulerSide(self._spec, self._client) if role is KVConnectorRole.SCHEDULER else None
        self._worker: WorkerSide | None = None

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        return self._scheduler.matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        if num_external_tokens:
            self._scheduler.load(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        assert self._scheduler is not None
        return StepMetadata(*self._scheduler.step(scheduler_output))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        assert self._scheduler is not None
        self._scheduler.forget(request.request_id)
        return False, None

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        spec, dtype = self._spec, getattr(torch, self._spec.dtype)
        write = cache_writer(dtype, spec.block_tokens, spec.head_dim)
        layout = CpuLayout(write, spec.block_tokens, spec.num_kv_heads, spec.head_dim, dtype)
        self._worker = WorkerSide(spec, self._client, list(kv_caches.values()), layout)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        assert self._worker is not None
        for load in self._metadata().loads:
            self._worker.begin(load)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is loaded during a step."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are saved whole, when all layers are done."""

    def wait_for_save(self) -> None:
        assert self._worker is not None
        for save in self._metadata().saves:
            self._worker.offer(save)
        self._worker.look()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        assert self._worker is not None
        self._worker.look()
        return None, self._worker.take_loaded()

    def get_block_ids_with_load_errors(self) -> set[int]:
        assert self._worker is not None
        return self._worker.take_lost_blocks()

    def shutdown(self) -> None:
        self._client.close()
        self._context.term()

    def _metadata(self) -> StepMetadata:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        return metadata


def cache_writer(dtype: torch.dtype, block_tokens: int, head_dim: int) -> Writer:
    """vLLM's own operator, for the attention kernel that it uses on this CPU."""
    isa = _get_attn_isa(dtype, block_tokens, head_dim)

    def write(kv: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        cpu_attn_reshape_and_cache(kv[0], kv[1], keys, values, slots, isa)

    return write
