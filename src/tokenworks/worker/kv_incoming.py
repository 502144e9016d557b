"""One sequence's blocks on their way from the host's KV store: which came, when, and how long to wait for the rest.

When a block came is known only to lie between two looks at the socket, since a step may have run meanwhile. It is taken
to have come when it was predicted to, if that lies between: a long step is not a slow tier.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tokenworks.contract.kv import BlockName
from tokenworks.policy.accounts import Wait
from tokenworks.policy.arriving import Arrival
from tokenworks.policy.transfer import Fetch, FetchPlan


@dataclass(eq=False, slots=True)
class Incoming:
    """Blocks asked for or on their way, for one sequence. Indices are those of `arrival.names`."""

    arrival: Arrival
    request: str  # its name towards the store
    asked_s: float
    give_up_s: float  # when the look-up is given up
    fetch: Fetch | None = None  # None until the store has said what it holds
    num_coming: int = 0  # blocks that may still make a prefix without a gap
    _written: set[int] = field(default_factory=set)  # blocks that are in place
    _came_s: dict[int, float] = field(default_factory=dict)

    def begin(self, plan: FetchPlan, now_s: float) -> None:
        """The store has said what it holds, and these blocks are asked for."""
        self.fetch, self.num_coming = Fetch(plan, now_s, now_s - self.asked_s), plan.count

    @property
    def deadline_s(self) -> float:
        """When to go on with what is there."""
        return self.give_up_s if self.fetch is None else self.fetch.deadline_s

    @property
    def is_all_there(self) -> bool:
        """Whether all that can be had is in place."""
        return self.fetch is not None and self.fetch.num_arrived >= self.num_coming

    @property
    def num_outstanding(self) -> int:
        """Blocks that could still come, and one at least: a look-up that was not answered is one."""
        num_arrived = 0 if self.fetch is None else self.fetch.num_arrived
        return max(1, self.num_coming - num_arrived)

    def index(self, name: BlockName) -> int | None:
        """Which of the blocks asked for it is; None where it is none of them, whatever the store says."""
        try:
            return self.arrival.names.index(name, 0, len(self.arrival.blocks))
        except ValueError:
            return None

    def came(self, index: int, last_look_s: float, now_s: float) -> None:
        """A block stands in the arena that did not at the look before."""
        assert self.fetch is not None
        self._came_s[index] = min(now_s, max(self.fetch.expected_s(index), last_look_s))

    def wrote(self, index: int) -> None:
        """A block is in place."""
        self._written.add(index)

    def ends_before(self, index: int) -> None:
        """This block will not come: what comes behind it is of no use."""
        self.num_coming = min(self.num_coming, index)

    def count_prefix(self) -> None:
        """Tell the fetch what has come without a gap."""
        fetch = self.fetch
        while fetch is not None and fetch.num_arrived in self._written:
            fetch.arrived(1, self._came_s[fetch.num_arrived])

    def wait(self, fetch: Fetch, block_bytes: int, now_s: float) -> Wait:
        """What its sequence was held back for; the look-up is counted as the first tier's."""
        waited_s = fetch.waited_s(now_s)
        blocks = Counter(fetch.plan.tiers[: fetch.num_arrived])
        return Wait(
            request_id=self.arrival.sequence.request.id,
            by_tier_ns={tier: round(seconds * 1e9) for tier, seconds in waited_s.items()},
            fetched_bytes={tier: count * block_bytes for tier, count in blocks.items()},
            held_blocks=self.arrival.first + len(self.arrival.blocks),
        )
