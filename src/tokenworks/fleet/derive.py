"""Everything in the settings that says "derived at start" is derived here, before anything starts.

The number of cores and the run directory are handed in. Once derived, settings name every kind of worker in `workers`;
one worker's own are what `contract.worker_groups.own_group` makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tokenworks.contract.auth import check_keys_have_a_place
from tokenworks.contract.config import KVSettings, Settings, WorkerGroup
from tokenworks.contract.folders import expanded
from tokenworks.contract.worker_groups import groups_of
from tokenworks.fleet.cores import share_of_cores
from tokenworks.fleet.launch import check_address, check_store_address, kinds_of_workers, resolve_model
from tokenworks.fleet.port import claim_port


def derive(settings: Settings, run_dir: Path, num_cores: int) -> Settings:
    """Settings with nothing left to derive: model, name, port, addresses, workers, store; raises StartupError."""
    settings = resolve_model(settings)
    check_keys_have_a_place(settings.gateway, settings.ledger)
    if settings.gateway.worker_address:
        check_address(settings.gateway.worker_address)
    gateway = msgspec.structs.replace(
        settings.gateway,
        port=claim_port(settings.gateway.host, settings.gateway.port),
        worker_address=settings.gateway.worker_address or f"ipc://{run_dir}/workers",
    )
    workers = derive_threads(groups_of(settings), num_cores)
    # What divides the machine's memory among its workers divides by this, and those that do not compute take none.
    num_computing = sum(group.count for group in workers if computes(group))
    fleet = msgspec.structs.replace(settings.fleet, workers=max(1, num_computing))
    kv = derive_store(settings.kv, run_dir)
    return msgspec.structs.replace(settings, gateway=gateway, kv=kv, fleet=fleet, workers=workers)


def computes(group: WorkerGroup) -> bool:
    """Whether such workers use this machine's cores and memory; what speaks for a server elsewhere does not."""
    return group.runs != "openai"


def derive_threads(groups: Sequence[WorkerGroup], num_cores: int) -> tuple[WorkerGroup, ...]:
    """The groups with their threads: who says nothing about them gets an even share of the cores the others leave."""
    computing = [group for group in groups if computes(group)]
    num_left = num_cores - sum(group.count * group.engine.threads for group in computing)
    num_sharing = sum(group.count for group in computing if not group.engine.threads)
    share = max(1, num_left // max(1, num_sharing))
    return tuple(_with_threads(group, group.engine.threads or share) if computes(group) else group for group in groups)


def _with_threads(group: WorkerGroup, threads: int) -> WorkerGroup:
    return msgspec.structs.replace(group, engine=msgspec.structs.replace(group.engine, threads=threads))


def cores_of_workers(settings: Settings, cores: Sequence[int]) -> dict[str, list[int]]:
    """The cores that each worker is kept on, by its id, where several compute; who is not named may run anywhere."""
    threads = {name: group.engine.threads for name, group in kinds_of_workers(settings).items() if computes(group)}
    if len(threads) < 2:
        return {}
    shares = list(threads.values())
    return {name: share_of_cores(cores, index, shares) for index, name in enumerate(threads)}


def derive_store(kv: KVSettings, run_dir: Path) -> KVSettings:
    """The store's settings with its address, memory and folder; as they are where there is no store."""
    if kv.store_address:
        check_store_address(kv.store_address)
    if not kv.is_on:
        return kv
    return msgspec.structs.replace(
        kv,
        host_bytes=kv.memory_bytes,
        disk_path=str(expanded(kv.disk_path).absolute()) if kv.disk_path else "",
        store_address=kv.store_address or f"ipc://{run_dir}/store",
    )
