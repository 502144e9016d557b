"""From the settings to a store that is ready to run: its memory, its tiers and what is known of them.

Anything that keeps it from running is a StartupError that says what to do.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tokenworks.contract.config import KVSettings
from tokenworks.contract.errors import StartupError
from tokenworks.contract.folders import expanded
from tokenworks.contract.kv import Tier
from tokenworks.contract.memory import free_memory_bytes
from tokenworks.kv.arena import Arena, create_arena
from tokenworks.kv.extents import Extents
from tokenworks.kv.host import HostMemory
from tokenworks.kv.io import TierThreads
from tokenworks.kv.lower import NO_LIMIT, LowerTier
from tokenworks.kv.protocol import LEASE_S, TierSpeed
from tokenworks.kv.stock import Stock
from tokenworks.kv.store import Store, Welcome
from tokenworks.kv.tiers.disk import DiskTier
from tokenworks.kv.tiers.open import open_remote
from tokenworks.kv.tiers.tier import BlockTier, TierError
from tokenworks.policy.tiering import TierPolicy

HOST_LATENCY_S: Final = 0.0005  # a message there and back between two processes
COPIED_BYTES: Final = 4 << 20
LEAVING_SHARE: Final = 32
"""One part in so many of the disk is left to blocks that are leaving it for the remote tier."""


class BuiltStore(msgspec.Struct, frozen=True):
    """A store and what it runs on."""

    store: Store
    threads: TierThreads
    tiers: dict[Tier, BlockTier]


def build_store(settings: KVSettings, store_id: str, wake: Callable[[], None], lease_s: float = LEASE_S) -> BuiltStore:
    """The store that `settings` ask for. `wake` is called, from any thread, when an outcome is there to be taken."""
    arena = create_arena(settings.memory_bytes, free_memory_bytes())
    built = assemble(arena, open_tiers(settings), settings, store_id, wake, lease_s)
    arena.page_in()
    return built


def assemble(
    arena: Arena,
    tiers: dict[Tier, BlockTier],
    settings: KVSettings,
    store_id: str,
    wake: Callable[[], None],
    lease_s: float = LEASE_S,
) -> BuiltStore:
    """A store over an arena and open tiers."""
    host = HostMemory(Extents(arena.num_bytes), TierPolicy(arena.num_bytes))
    stock = Stock(host, lower_tiers(tiers, settings), measure_host(arena))
    welcome = Welcome(f"{store_id}-{secrets.token_hex(4)}", arena.path, arena.num_bytes)
    return BuiltStore(Store(welcome, stock, lease_s), TierThreads(arena, tiers, wake), tiers)


def open_tiers(settings: KVSettings) -> dict[Tier, BlockTier]:
    """The tiers below host memory, near to far; raises StartupError."""
    tiers: dict[Tier, BlockTier] = {}
    try:
        if settings.disk_path:
            path = expanded(settings.disk_path)
            tiers[Tier.DISK] = DiskTier(path, settings.disk_bytes, settings.sync_s / 2)
        if settings.remote:
            tiers[Tier.REMOTE] = open_remote(settings.remote)
    except TierError as error:
        raise StartupError(f"the KV store cannot use its tiers: {error.message}") from error
    return tiers


def lower_tiers(tiers: Mapping[Tier, BlockTier], settings: KVSettings) -> list[LowerTier]:
    """What the store keeps of each. Half of `sync_s` is for the way to the disk tier, half for that to the device."""
    lowers: list[LowerTier] = []
    if Tier.DISK in tiers:
        limit = settings.disk_bytes - settings.disk_bytes // LEAVING_SHARE
        lowers.append(LowerTier(Tier.DISK, TierPolicy(limit), limit, settings.sync_s / 2))
    if Tier.REMOTE in tiers:
        lowers.append(LowerTier(Tier.REMOTE, TierPolicy(NO_LIMIT), NO_LIMIT))
    return lowers


def measure_host(arena: Arena) -> TierSpeed:
    """How fast a block is copied out of the arena: the best of a few, since the first ones page the memory in."""
    source = arena.view(0, min(COPIED_BYTES, arena.num_bytes))
    target = bytearray(len(source))
    seconds: list[float] = []
    for _ in range(5):
        start_s = time.perf_counter()
        target[:] = source
        seconds.append(time.perf_counter() - start_s)
    return TierSpeed(HOST_LATENCY_S, len(source) / max(min(seconds), 1e-9))
