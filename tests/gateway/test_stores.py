"""What KV stores and workers tell of blocks beyond the engines, as readiness and metrics show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenworks.contract.kv import Tier
from tokenworks.contract.wire import KVTraffic, TierStatus, TierTraffic

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, WaitUntil


def test_a_store_is_listed_until_it_is_silent_for_a_lease(running_rig: MakeRig, wait_until: WaitUntil) -> None:
    with running_rig(lease_s=0.5) as rig:
        rig.add_store("kv0", host=TierStatus(blocks=1))
        assert rig.http.get("/health/ready").json()["stores"] == ["kv0"]
        wait_until(lambda: rig.http.get("/health/ready").json()["stores"] == [])
        assert ("tokenworks_kv_tier_blocks", "kv0", "host") not in rig.metrics()


def test_a_stores_tiers_are_metrics(bare_rig: Rig) -> None:
    disk = TierStatus(3, 300, 1000, is_up=False, hits=5, puts=6, evictions=7, read_bytes_per_s=8, faults={"torn": 2})
    disk = replace(disk, unwritten={"unlikely": 9})
    bare_rig.add_store("kv0", host=TierStatus(1, 100, 200), disk=disk)
    metrics = bare_rig.metrics()
    assert metrics["tokenworks_kv_tier_blocks", "kv0", "host"] == 1
    told = {name: metrics[f"tokenworks_kv_tier_{name}", "kv0", "disk"] for name in ("blocks", "used_bytes", "up")}
    assert told == {"blocks": 3, "used_bytes": 300, "up": 0}
    assert metrics["tokenworks_kv_tier_limit_bytes", "kv0", "disk"] == 1000
    assert metrics["tokenworks_kv_tier_read_bytes_per_second", "kv0", "disk"] == 8
    counts = [metrics[f"tokenworks_kv_tier_{name}_total", "kv0", "disk"] for name in ("hits", "puts", "evictions")]
    assert counts == [5, 6, 7]
    assert metrics["tokenworks_kv_tier_faults_total", "torn", "kv0", "disk"] == 2
    assert metrics["tokenworks_kv_tier_unwritten_total", "unlikely", "kv0", "disk"] == 9
    assert metrics["tokenworks_kv_store_misses_total", "kv0"] == 9


def test_a_workers_exchange_is_metrics(bare_rig: Rig, wait_until: WaitUntil) -> None:
    worker = bare_rig.add_worker()
    fetched = {Tier.HOST: TierTraffic(4, 400, 0.5, 0.25, 2.0)}
    worker.load = {"arriving": 2, "kv": KVTraffic(True, 10, 1000, fetched, {"late": 3}, 6)}
    wait_until(lambda: bare_rig.metrics()["tokenworks_worker_kv_attached", "w0"])
    metrics = bare_rig.metrics()
    assert metrics["tokenworks_worker_arriving", "w0"] == 2
    for name, value in {"published_blocks": 10, "published_bytes": 1000, "declined_blocks": 6}.items():
        assert metrics[f"tokenworks_worker_kv_{name}_total", "w0"] == value
    told = {"blocks": 4, "bytes": 400, "predicted_seconds": 0.5, "seconds": 0.25, "recompute_seconds": 2.0}
    for name, value in told.items():
        assert metrics[f"tokenworks_worker_kv_fetched_{name}_total", "host", "w0"] == value
    assert metrics["tokenworks_worker_kv_faults_total", "late", "w0"] == 3
