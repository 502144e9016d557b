"""A store without sockets, threads or clock: messages and outcomes go in by hand, time passes when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.kv.chain import ChainBlock, spec_of
from tests.kv.lru import LeastRecentlyUsed
from tokenworks.contract.kv import BlockName, Tier
from tokenworks.contract.wire import TierStatus
from tokenworks.kv.extents import Extents
from tokenworks.kv.host import HostMemory, Policy
from tokenworks.kv.lower import NO_LIMIT, LowerTier
from tokenworks.kv.protocol import (
    STORE_PROTOCOL,
    Attach,
    Commit,
    Found,
    Granted,
    Missing,
    Offer,
    Place,
    Ready,
    StoreMessage,
    TierSpeed,
    ToStore,
)
from tokenworks.kv.stock import Stock
from tokenworks.kv.store import Store, Welcome
from tokenworks.kv.tasks import Outcome, Probe, Read, Scan, Task

LEASE_S = 30.0
PLACE_BYTES = 12288  # of one of `chain`'s blocks: 128 + 8192, in pages
TaskT = TypeVar("TaskT", bound=Task)
MessageT = TypeVar("MessageT", bound=StoreMessage)


class Rig:
    """The store of a host with room for `places` blocks of `chain`'s usual size."""

    def __init__(
        self,
        places: int,
        *tiers: Tier,
        disk_blocks: int = 1000,
        make_policy: Callable[[int], Policy] = LeastRecentlyUsed,
    ) -> None:
        size = places * PLACE_BYTES
        self.now_s = 1000.0
        limits = {Tier.DISK: disk_blocks * 8320, Tier.REMOTE: NO_LIMIT}
        lowers = [LowerTier(tier, make_policy(limits[tier]), limits[tier], 2.0, max_reads=2) for tier in tiers]
        host = HostMemory(Extents(size), make_policy(size))
        self.stock = Stock(host, lowers, TierSpeed(0.0005, 5e9))
        self.store = Store(Welcome("s1", "/proc/1/fd/3", size), self.stock, LEASE_S)
        self.pending: list[Task] = []
        self.replies: list[tuple[bytes, StoreMessage]] = []
        self._settle()

    # Doing

    def attach(self, client: bytes, client_id: str | None = None, protocol: int = STORE_PROTOCOL) -> None:
        self.tell(client, Attach(protocol, client_id or client.decode(), spec_of(8192)))

    def tell(self, client: bytes, message: ToStore) -> None:
        self.store.receive(client, message, self.now_s)
        self._settle()

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.store.tick(self.now_s)
        self._settle()

    def end(
        self, task: Task, *, error: str = "", write_error: str = "", num_bytes: int | None = None, **known: object
    ) -> None:
        """A task is over after a hundredth of a second; a Read reads all."""
        self.pending.remove(task)
        start_s = self.now_s
        self.now_s += 0.01
        if num_bytes is None:
            num_bytes = task.num_bytes if isinstance(task, Read) else 0
        outcome = Outcome(
            task,
            start_s,
            self.now_s,
            error=error,
            write_error=write_error,
            num_bytes=num_bytes,
            **known,  # type: ignore[arg-type]
        )
        self.store.finished(outcome, self.now_s)
        self._settle()

    def put(self, client: bytes, blocks: Sequence[ChainBlock], recompute_s: float = 0.1) -> list[Place]:
        """Offer and commit; the places."""
        self.tell(client, Offer([block.offered(recompute_s) for block in blocks]))
        places = [place for granted in self.take(client, Granted) for place in granted.places]
        self.tell(client, Commit([place.name for place in places]))
        return places

    def measure(self, tier: Tier, bytes_per_s: float = 1e9, latency_s: float = 0.001) -> None:
        """Let the first probe (and scan) of a tier end."""
        for scan in self.tasks(Scan):
            self.end(scan)
        for probe in self.tasks(Probe):
            if probe.tier is tier:
                self._measured(probe, bytes_per_s, latency_s)

    def _measured(self, probe: Probe, bytes_per_s: float, latency_s: float) -> None:
        self.pending.remove(probe)
        end_s = self.now_s + 1e6 / bytes_per_s + latency_s
        outcome = Outcome(probe, self.now_s, end_s, num_bytes=1_000_000, latency_s=latency_s)
        self.store.finished(outcome, self.now_s)
        self._settle()

    # Seeing

    def take(self, client: bytes, kind: type[MessageT]) -> list[MessageT]:
        """The messages of this kind that the client was sent since it was last asked; others stay."""
        mine = [message for to, message in self.replies if to == client and isinstance(message, kind)]
        self.replies = [(to, message) for to, message in self.replies if to != client or not isinstance(message, kind)]
        return mine

    def ready(self, client: bytes) -> list[BlockName]:
        return [place.name for message in self.take(client, Ready) for place in message.places]

    def missing(self, client: bytes) -> dict[BlockName, str]:
        return {name: message.reason for message in self.take(client, Missing) for name in message.names}

    def found(self, client: bytes) -> list[Tier]:
        (message,) = self.take(client, Found)
        return message.tiers

    def tasks(self, kind: type[TaskT]) -> list[TaskT]:
        return [task for task in self.pending if isinstance(task, kind)]

    def task(self, kind: type[TaskT]) -> TaskT:
        (task,) = self.tasks(kind)
        return task

    def status(self, tier: Tier) -> TierStatus:
        return self.store.status("kv0", 1).tiers[tier]

    def _settle(self) -> None:
        self.pending += self.store.take_tasks(self.now_s)
        self.replies += self.store.take_replies()
