"""Copies blocks between vLLM's cache and the store's shared memory: the worker's half of the connector.

Nothing here waits: what has not come `LOAD_S` after it was asked for is given up, and vLLM is told. What stands where
in vLLM's cache is the layout's affair; nothing of vLLM is imported.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import Protocol

import torch
from blocks import whole_block
from scheduler_side import LoadOf, Save

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, KVSpec
from tokenworks.kv.client import KVClient, StoreLost
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal
from tokenworks.kv.protocol import Granted, Missing, Offered, Place, Ready

log = logging.getLogger(__name__)

LOAD_S = 5.0  # that a request may wait for its blocks
MAX_OFFERED = 256  # copies of blocks that wait for a place in the store


class Layout(Protocol):
    """Reads and writes one layer's block of a cache as `[2, block_tokens, kv_heads, head_dim]`."""

    def read(self, cache: torch.Tensor, block: int) -> torch.Tensor:
        """A copy of it."""

    def write(self, cache: torch.Tensor, block: int, kv: torch.Tensor) -> None:
        """Put it there whole."""


class WorkerSide:
    """Copies blocks between vLLM's cache and the store's shared memory."""

    def __init__(self, spec: KVSpec, client: KVClient, caches: list[torch.Tensor], layout: Layout) -> None:
        self._spec = spec
        self._client = client
        self._caches = caches
        self._dtype = getattr(torch, spec.dtype)
        self._layout = layout
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
