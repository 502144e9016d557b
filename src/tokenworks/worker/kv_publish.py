"""Puts the blocks that this worker computes into its host's KV store.

After each step the blocks that it filled are offered, together. The store grants places for those that it wants; each
is filled between two steps, if the engine still holds the block, and committed. A step is not held up for long: at most
`TURN_BYTES` are copied in one turn, the rest waits for the next.

A request that publishes is a prefill for somebody else, so its end is held back until its blocks can be found in the
store, or until it is plain that they will not be: `PUBLISH_S` have passed, or the store is gone. What the store holds
is asked of the store itself, because it need not want what it is offered.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, block_names, root_name
from tokenworks.contract.request import Request
from tokenworks.contract.wire import SequenceOutput
from tokenworks.engine.engine import Engine
from tokenworks.kv.client import KVClient
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal
from tokenworks.kv.protocol import Found, Granted, Offered, Place
from tokenworks.policy.block_tables import NamedBlock
from tokenworks.worker.kv_traffic import TrafficCounts
from tokenworks.worker.prefill_speed import PrefillSpeed

TURN_BYTES: Final = 32 << 20
"""Copied between two steps at most: some ten milliseconds."""

PUBLISH_S: Final = 2.0
"""How long a request that publishes waits, when it has been computed, for its blocks to be in the store."""

MAX_OFFERED: Final = 4096
"""Blocks that were offered and not granted yet, at most: the store does not say which it does not want."""

_PUBLISH: Final = "publish "
"""Before a request's id, its name towards the store."""


@dataclass(slots=True)
class HeldEnd:
    """The end of a request that publishes."""

    output: SequenceOutput
    names: list[BlockName]  # of the prompt's full blocks
    give_up_s: float
    is_asking: bool = False  # whether the store was asked what it holds of them


class Publisher:
    """One engine's blocks on their way to the store. Used by the step loop alone."""

    def __init__(self, engine: Engine, client: KVClient, speed: PrefillSpeed, counts: TrafficCounts) -> None:
        self._engine = engine
        self._client = client
        self._speed = speed
        self._counts = counts
        self._offered: OrderedDict[BlockName, NamedBlock] = OrderedDict()  # the oldest first
        self._written: list[tuple[str, int]] = []
        self._granted: deque[Place] = deque()  # to be written
        self._publishing: dict[str, Request] = {}  # those that run
        self._held: dict[str, HeldEnd] = {}  # those that have run
        self._released: list[SequenceOutput] = []

    @property
    def has_backlog(self) -> bool:
        """Whether there is something to write at once."""
        return bool(self._granted)

    @property
    def is_holding(self) -> bool:
        """Whether an end is held back."""
        return bool(self._held or self._released)

    def next_deadline_s(self) -> float | None:
        """When the first of the held ends is told, whatever has become of its blocks."""
        return min((held.give_up_s for held in self._held.values()), default=None)

    # Blocks

    def offer(self, blocks: Sequence[NamedBlock]) -> None:
        """Tell the store of blocks that a step has filled."""
        if not blocks or not self._client.is_attached:
            return
        size, tokens = block_bytes(self._engine.spec), self._engine.spec.block_tokens
        self._client.offer(
            [Offered(each.name, each.parent, size, self._speed.block_s(tokens, each.index)) for each in blocks]
        )
        self._offered.update((block.name, block) for block in blocks)
        while len(self._offered) > MAX_OFFERED:
            self._offered.popitem(last=False)

    def on_granted(self, granted: Granted) -> None:
        """Places to write to, in the next turns."""
        self._granted.extend(granted.places)

    def write(self, budget_bytes: int = TURN_BYTES) -> None:
        """Fill granted places, as many as the budget allows, and one at least; then see to the ends held back."""
        committed: list[BlockName] = []
        aborted: list[BlockName] = []
        while self._granted and budget_bytes > 0:
            place = self._granted.popleft()
            budget_bytes -= place.num_bytes
            (committed if self._write_one(place) else aborted).append(place.name)
        if committed:
            self._client.commit(committed)
        if aborted:
            self._client.abort(aborted)
        self._ask_again()

    def _write_one(self, place: Place) -> bool:
        """Copy a block into its place; False where that cannot be done (any more)."""
        offered = self._offered.pop(place.name, None)
        block = self._engine.block_of(place.name)
        if offered is None or block is None or place.num_bytes != block_bytes(self._engine.spec):
            return False
        try:
            memory = self._client.memory(place)
        except TokenworksError:  # a place that is not in the arena, or an arena that is gone
            return False
        self._engine.memory.read_block(block, memory[HEADER_BYTES:])
        seal(memory, self._engine.spec, place.name, offered.parent)
        self._counts.published(place.num_bytes)
        self._written.append((offered.request_id, place.num_bytes))
        return True

    def take_written(self) -> list[tuple[str, int]]:
        """Blocks written since the last call: by which request, and their bytes."""
        written, self._written = self._written, []
        return written

    # Requests that publish

    def begin(self, request: Request) -> None:
        """Hold the end of this request back, once it comes."""
        self._publishing[request.id] = request

    def forget(self, request_id: str) -> None:
        """Nobody waits for its end any more."""
        self._publishing.pop(request_id, None)
        self._held.pop(request_id, None)
        self._released = [output for output in self._released if output.request_id != request_id]

    def hold_back(self, outputs: Sequence[SequenceOutput], now_s: float) -> list[SequenceOutput]:
        """The outputs, less the ends of requests whose blocks are not in the store yet."""
        return [output for output in outputs if not self._holds(output, now_s)]

    def _holds(self, output: SequenceOutput, now_s: float) -> bool:
        if output.end is None or output.request_id not in self._publishing:
            return False
        request, spec = self._publishing.pop(output.request_id), self._engine.spec
        root = root_name(spec.fingerprint, request.salt)
        names = block_names(root, request.token_ids, spec.block_tokens)
        if not names or output.end.error is not None or not self._client.is_attached:
            return False
        chain = zip(names, [root, *names], strict=False)
        self._offer_held([NamedBlock(*pair, at, request.id) for at, pair in enumerate(chain)])
        self._held[request.id] = held = HeldEnd(output, names, now_s + PUBLISH_S)
        self._ask(request.id, held)
        return True

    def _offer_held(self, chain: Sequence[NamedBlock]) -> None:
        """Blocks that the engine had before may have left the store; those that are there, it does not take again."""
        self.offer([block for block in chain if self._engine.block_of(block.name) is not None])

    def _ask(self, request_id: str, held: HeldEnd) -> None:
        held.is_asking = True
        self._client.find(_PUBLISH + request_id, held.names)

    def on_found(self, found: Found) -> bool:
        """How much of a prompt the store holds by now; False where it was not asked here.

        Grants come before this answer, and what is granted is written first. With nothing left to write, what the store
        does not hold now it does not want.
        """
        if not found.request.startswith(_PUBLISH):
            return False
        request_id = found.request.removeprefix(_PUBLISH)
        held = self._held.get(request_id)
        if held is not None:
            held.is_asking = False
            if len(found.tiers) == len(held.names) or not self._is_to_be_written(held):
                self._release(request_id)
        return True

    def _is_to_be_written(self, held: HeldEnd) -> bool:
        granted = {place.name for place in self._granted}
        return not granted.isdisjoint(held.names)

    def _ask_again(self) -> None:
        for request_id, held in self._held.items():
            if not held.is_asking and not self._is_to_be_written(held):
                self._ask(request_id, held)

    def _release(self, request_id: str) -> None:
        self._released.append(self._held.pop(request_id).output)

    def take_released(self, now_s: float) -> list[SequenceOutput]:
        """Ends that need not be held back any more."""
        for request_id in [key for key, held in self._held.items() if held.give_up_s <= now_s]:
            self._release(request_id)
        released, self._released = self._released, []
        return released

    def lost(self) -> None:
        """The store is gone: no place is ours any more, and nobody need wait."""
        self._granted.clear()
        self._offered.clear()
        for request_id in list(self._held):
            self._release(request_id)
