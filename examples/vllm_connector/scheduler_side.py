"""Which blocks a vLLM request could have from the store, has, and has finished: the scheduler's half of the connector.

Nothing is promised to vLLM that does not stand whole in the store's memory, and nobody waits for it longer than
`FETCH_S`. Knows of vLLM what its requests and scheduler outputs carry, and imports nothing of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from blocks import whole_block

from tokenworks.contract.kv import BlockName, KVSpec, block_names, root_name
from tokenworks.kv.client import KVClient, StoreLost
from tokenworks.kv.protocol import Found, Missing, Place, Ready

FETCH_S = 2.0  # that a new request may wait for what the store holds of it
REATTACH_S = 1.0  # without a store after which nobody waits for one


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


class SchedulerSide:
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

    def step(self, output: Any) -> tuple[list[LoadOf], list[Save]]:
        """The loads that were decided on, and the blocks that this step finishes."""
        loads, self._loads = self._loads, []
        saves: list[Save] = []
        for new in output.scheduled_new_reqs:
            self._blocks[new.req_id] = list(new.block_ids[0])
            self._let_go(new.req_id)
            saves += self._finished(new.req_id, new.num_computed_tokens, output)
        cached = output.scheduled_cached_reqs
        for at, request_id in enumerate(cached.req_ids):
            added = cached.new_block_ids[at]
            if request_id in cached.resumed_req_ids:
                self._blocks[request_id] = []
            self._blocks.setdefault(request_id, []).extend(added[0] if added else [])
            saves += self._finished(request_id, cached.num_computed_tokens[at], output)
        self._listen()
        return loads, saves

    def forget(self, request_id: str) -> None:
        self._let_go(request_id)
        self._known.pop(request_id, None)
        self._requests.pop(request_id, None)
        self._blocks.pop(request_id, None)

    def _let_go(self, request_id: str) -> None:
        """It computes now, or never will: the store need not keep its blocks in memory for this half any more."""
        known = self._known.get(request_id)
        if known is not None and known.is_asked:
            known.is_asked = False
            self._client.done(request_id)

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
