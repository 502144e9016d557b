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

import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
import zmq
from cpu_layout import CpuLayout
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, KVSpec, block_names, root_name
from tokenworks.kv.client import KVClient, StoreLost
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal, verify
from tokenworks.kv.protocol import Found, Granted, Missing, Offered, Place, Ready

log = logging.getLogger(__name__)

FETCH_S = 2.0  # that a new request may wait for what the store holds of it
REATTACH_S = 1.0  # without a store after which nobody waits for one
LOAD_S = 5.0  # that a request may wait for its blocks
MAX_OFFERED = 256  # copies of blocks that wait for a place in the store


@dataclass
class Save:
    """A block that this step finishes."""

    name: BlockName
    parent: BlockName
    block: int


@dataclass
class LoadOf:
    """Blocks to fetch for one request, before it goes on."""

    request: str
    names: list[BlockName]
    blocks: list[int]


@dataclass
class StepMetadata(KVConnectorMetadata):
    """From the scheduler's connector to the worker's."""

    loads: list[LoadOf] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)


@dataclass
class Known:
    """What the scheduler's connector knows of one request."""

    names: list[BlockName]  # of the full blocks that it has so far
    since_s: float
    is_asked: bool = False
    wanted: list[BlockName] = field(default_factory=list)  # what the store has found
    num_answered: int = 0  # of those
    verified: set[BlockName] = field(default_factory=set)
    held: int | None = None  # blocks of the prompt that can be promised; None: not known yet
    saved: int = 0  # blocks that need not be saved any more

    def settle(self) -> None:
        """Promise what has come and is whole, up to the first gap."""
        gaps = (at for at, name in enumerate(self.names) if name not in self.verified)
        self.held = next(gaps, len(self.names))


class TokenworksConnector(KVConnectorBase_V1):
    """Settings in `kv_connector_extra_config`: `store_address` and `fingerprint`, as the pool's workers have them."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._spec = kv_spec(vllm_config, extra["fingerprint"])
        client_id = f"vllm-{os.getpid()}-{role.name.lower()}"
        self._client = KVClient(zmq.Context(), extra["store_address"], client_id, self._spec)
        self._client.receive()
        self._scheduler = _SchedulerSide(self._spec, self._client) if role is KVConnectorRole.SCHEDULER else None
        self._worker: _WorkerSide | None = None

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        return self._scheduler.matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        if num_external_tokens:
            self._scheduler.load(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        assert self._scheduler is not None
        return self._scheduler.step(scheduler_output)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        assert self._scheduler is not None
        self._scheduler.forget(request.request_id)
        return False, None

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._worker = _WorkerSide(self._spec, self._client, list(kv_caches.values()))

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

    def _metadata(self) -> StepMetadata:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        return metadata


class _SchedulerSide:
    """Which blocks a request could have, has, and has finished."""

    def __init__(self, spec: KVSpec, client: KVClient) -> None:
        self._spec = spec
        self._client = client
        self._known: dict[str, Known] = {}
        self._requests: dict[str, Any] = {}
        self._blocks: dict[str, list[int]] = {}
        self._loads: list[LoadOf] = []
        self._attached_s = 0.0  # when there was last seen to be a store

    def matched_tokens(self, request: Any, num_computed: int) -> tuple[int | None, bool]:
        """None: asked, and not told yet. The prompt's last token is always computed: it is what is sampled from."""
        self._listen()
        known = self._known.get(request.request_id) or self._begin(request)
        if known.held is None and self._is_worth_waiting(known):
            self._ask(request.request_id, known)
            return None, False
        if known.held is None:
            known.settle()
        held_tokens = min((known.held or 0) * self._spec.block_tokens, self._usable(request))
        new = max(0, held_tokens - num_computed)
        return new, new > 0

    def load(self, request: Any, blocks: list[int], num_tokens: int) -> None:
        known = self._known[request.request_id]
        size = self._spec.block_tokens
        last = min((known.held or 0) * size, self._usable(request)) // size
        first = last - num_tokens // size
        known.saved = last
        known.held = 0  # once: what did not come is computed, and not asked for again
        self._loads.append(LoadOf(request.request_id, known.names[first:last], blocks[first:last]))

    def step(self, output: Any) -> StepMetadata:
        """The loads that were decided on, and the blocks that this step finishes."""
        metadata = StepMetadata(loads=self._loads)
        self._loads = []
        for new in output.scheduled_new_reqs:
            self._blocks[new.req_id] = list(new.block_ids[0])
            metadata.saves += self._finished(new.req_id, new.num_computed_tokens, output)
        cached = output.scheduled_cached_reqs
        for at, request_id in enumerate(cached.req_ids):
            added = cached.new_block_ids[at]
            if request_id in cached.resumed_req_ids:
                self._blocks[request_id] = []
            self._blocks.setdefault(request_id, []).extend(added[0] if added else [])
            metadata.saves += self._finished(request_id, cached.num_computed_tokens[at], output)
        self._listen()
        return metadata

    def forget(self, request_id: str) -> None:
        if self._known.pop(request_id, None) is not None:
            self._client.done(request_id)
        self._requests.pop(request_id, None)
        self._blocks.pop(request_id, None)

    def _begin(self, request: Any) -> Known:
        self._requests[request.request_id] = request
        known = self._known[request.request_id] = Known(self._names(request), time.monotonic())
        if self._usable(request) == 0:
            known.held = 0
        return known

    def _is_worth_waiting(self, known: Known) -> bool:
        now_s = time.monotonic()
        return now_s - known.since_s < FETCH_S and now_s - self._attached_s < REATTACH_S

    def _ask(self, request_id: str, known: Known) -> None:
        if not known.is_asked and self._client.is_attached:
            known.is_asked = True
            self._client.find(request_id, known.names)

    def _listen(self) -> None:
        """vLLM calls nothing while it is idle, so the store may have forgotten us: then we ask again."""
        for event in self._client.receive():
            match event:
                case Found() if event.request in self._known:
                    self._fetch(event.request, len(event.tiers))
                case Ready() if event.request in self._known:
                    self._verify(self._known[event.request], event.places)
                case Missing() if event.request in self._known:
                    self._known[event.request].settle()
                case StoreLost():
                    for known in self._known.values():
                        known.is_asked, known.num_answered = False, 0
        if self._client.is_attached:
            self._attached_s = time.monotonic()

    def _fetch(self, request_id: str, num_held: int) -> None:
        known = self._known[request_id]
        known.wanted = known.names[: min(num_held, self._usable(self._requests[request_id]) // self._spec.block_tokens)]
        if known.wanted:
            self._client.get(request_id, known.wanted)
        else:
            known.settle()

    def _verify(self, known: Known, places: list[Place]) -> None:
        known.verified |= {place.name for place in places if whole_block(self._client, place, self._spec) is not None}
        known.num_answered += len(places)
        if known.num_answered >= len(known.wanted):
            known.settle()

    def _finished(self, request_id: str, num_computed: int, output: Any) -> list[Save]:
        known, blocks = self._known.get(request_id), self._blocks[request_id]
        if known is None:
            return []
        done = (num_computed + output.num_scheduled_tokens[request_id]) // self._spec.block_tokens
        if done > len(known.names):
            known.names = self._names(self._requests[request_id])
        root = root_name(self._spec.fingerprint, self._requests[request_id].cache_salt or "")
        parents = [root, *known.names]
        last = min(done, len(known.names), len(blocks))
        saves = [Save(known.names[at], parents[at], blocks[at]) for at in range(known.saved, last)]
        known.saved = max(known.saved, last)
        return saves

    def _names(self, request: Any) -> list[BlockName]:
        root = root_name(self._spec.fingerprint, request.cache_salt or "")
        return block_names(root, list(request.all_token_ids), self._spec.block_tokens)

    def _usable(self, request: Any) -> int:
        size = self._spec.block_tokens
        return (request.num_prompt_tokens - 1) // size * size


class _WorkerSide:
    """Copies blocks between vLLM's cache and the store's shared memory."""

    def __init__(self, spec: KVSpec, client: KVClient, caches: list[torch.Tensor]) -> None:
        self._spec = spec
        self._client = client
        self._caches = caches
        self._dtype = getattr(torch, spec.dtype)
        self._layout = CpuLayout(spec.block_tokens, spec.num_kv_heads, spec.head_dim, self._dtype)
        self._offered: OrderedDict[BlockName, bytearray] = OrderedDict()  # sealed copies
        self._loads: dict[str, tuple[float, dict[BlockName, int]]] = {}  # deadline, and where each block is to go
        self._loaded: set[str] = set()
        self._lost_blocks: set[int] = set()

    def offer(self, save: Save) -> None:
        """Copy a block at once, since vLLM may use its place again; the oldest copies go where there are too many."""
        if not self._client.is_attached or save.name in self._offered:
            return
        copy = bytearray(block_bytes(self._spec))
        layers = torch.stack([self._layout.read(cache, save.block) for cache in self._caches])
        copy[HEADER_BYTES:] = layers.contiguous().view(torch.uint8).numpy().tobytes()
        seal(memoryview(copy), self._spec, save.name, save.parent)
        self._offered[save.name] = copy
        if len(self._offered) > MAX_OFFERED:
            self._offered.popitem(last=False)
        self._client.offer([Offered(save.name, save.parent, len(copy), 0.1)])

    def begin(self, load: LoadOf) -> None:
        wanted = dict(zip(load.names, load.blocks, strict=True))
        self._loads[load.request] = (time.monotonic() + LOAD_S, wanted)
        if self._client.is_attached:
            self._client.get(load.request, load.names)
        else:
            self._give_up(load.request)

    def look(self) -> None:
        """Take in what the store has said, and give up what has not come in time."""
        for event in self._client.receive():
            match event:
                case Granted():
                    self._put(event.places)
                case Ready():
                    self._take(event.request, event.places)
                case Missing():
                    self._miss(event.request, event.names)
                case StoreLost():
                    self._offered.clear()
                    for request in list(self._loads):
                        self._give_up(request)
        now_s = time.monotonic()
        for request, (deadline_s, _) in list(self._loads.items()):
            if now_s > deadline_s:
                self._give_up(request)

    def take_loaded(self) -> set[str] | None:
        loaded, self._loaded = self._loaded, set()
        return loaded or None

    def take_lost_blocks(self) -> set[int]:
        lost, self._lost_blocks = self._lost_blocks, set()
        return lost

    def _put(self, places: list[Place]) -> None:
        for place in places:
            copy = self._offered.pop(place.name, None)
            if copy is None or len(copy) != place.num_bytes:
                self._client.abort([place.name])
                continue
            try:
                self._client.memory(place)[:] = copy
            except TokenworksError as error:
                log.warning("a block was not put: %s", error)
                return
            self._client.commit([place.name])

    def _take(self, request: str, places: list[Place]) -> None:
        if request not in self._loads:
            return
        wanted = self._loads[request][1]
        for place in places:
            block = wanted.pop(place.name, None)
            if block is not None and not self._write(place, block):
                self._lost_blocks.add(block)
        self._end_if_done(request)

    def _write(self, place: Place, block: int) -> bool:
        copy = whole_block(self._client, place, self._spec)
        if copy is None:
            return False
        spec = self._spec
        shape = (spec.num_layers, 2, spec.block_tokens, spec.num_kv_heads, spec.head_dim)
        payload = torch.frombuffer(copy, dtype=torch.uint8, offset=HEADER_BYTES).view(self._dtype).view(shape)
        for cache, kv in zip(self._caches, payload, strict=True):
            self._layout.write(cache, block, kv)
        return True

    def _miss(self, request: str, names: list[BlockName]) -> None:
        if request in self._loads:
            wanted = self._loads[request][1]
            self._lost_blocks |= {wanted.pop(name) for name in names if name in wanted}
            self._end_if_done(request)

    def _give_up(self, request: str) -> None:
        wanted = self._loads[request][1]
        self._lost_blocks |= set(wanted.values())
        wanted.clear()
        self._end_if_done(request)

    def _end_if_done(self, request: str) -> None:
        if not self._loads[request][1]:
            del self._loads[request]
            self._client.done(request)
            self._loaded.add(request)


def whole_block(client: KVClient, place: Place, spec: KVSpec) -> bytearray | None:
    """A private copy of a block that is what it should be and needs no conversion; None otherwise."""
    try:
        copy = bytearray(client.memory(place))
        header = verify(copy, place.name, spec.fingerprint)
    except TokenworksError as error:
        log.warning("a block was not used: %s", error)
        return None
    theirs = (header.dtype, header.num_layers, header.num_kv_heads, header.head_dim, header.block_tokens)
    ours = (spec.dtype, spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.block_tokens)
    is_all = theirs == ours and not header.first_layer and not header.first_kv_head
    return copy if is_all and len(copy) == block_bytes(spec) else None


def kv_spec(vllm_config: Any, fingerprint: str) -> KVSpec:
    """What this server computes and holds; raises ValueError for what is not shared."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    if parallel.world_size != 1:
        raise ValueError("the connector shares KV of a server without tensor or pipeline parallelism only")
    spec = KVSpec(
        fingerprint=fingerprint,
        num_layers=model.get_num_layers(parallel),
        num_kv_heads=model.get_num_kv_heads(parallel),
        head_dim=model.get_head_size(),
        block_tokens=vllm_config.cache_config.block_size,
        dtype=str(model.dtype).removeprefix("torch."),
        numerics=f"vllm {model.dtype}",
    )
    return msgspec.convert(msgspec.to_builtins(spec), KVSpec)  # checks the types of what vLLM gave
