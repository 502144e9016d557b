"""What is written down of workers and stores, asked or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tokenworks.contract import wire
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Frame, Incident, StoreSample, WorkerSample, WorkerUse
from tokenworks.contract.wire import StoreStatus, TierStatus
from tokenworks.gateway.pool import samples
from tokenworks.gateway.pool.samples import Samples

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig, WaitUntil


def of_kind(rig: Rig, kind: type) -> list[Frame]:
    return [frame for frame in rig.frames() if isinstance(frame, kind)]


def incidents(rig: Rig) -> list[tuple[str, str]]:
    return [(frame.kind, frame.subject) for frame in rig.frames() if isinstance(frame, Incident)]


def test_a_workers_life_from_its_first_heartbeat_to_its_last(recording_rig: Rig, wait_until: WaitUntil) -> None:
    worker = recording_rig.add_worker(price_per_hour=2.5)
    wait_until(lambda: of_kind(recording_rig, WorkerSample))
    worker.load = {"use": WorkerUse(started_ns=5, wall_ns=7, idle_ns=7)}
    registry = recording_rig.gateway.gateway.dispatcher.workers
    wait_until(lambda: registry.get("w0").load.use.wall_ns == 7)
    recording_rig.kill(worker)
    wait_until(lambda: len(of_kind(recording_rig, WorkerSample)) == 2)
    first, last = of_kind(recording_rig, WorkerSample)
    assert (first.is_last, last.is_last) == (False, True)
    assert last.use == WorkerUse(started_ns=5, wall_ns=7, idle_ns=7)
    assert (first.worker, first.model, first.version) == ("w0", "tiny-echo", "scripted")
    assert (first.device, first.price_per_hour) == ("cpu: scripted", 2.5)
    assert (first.free_blocks, first.total_blocks, first.preemptions) == (90, 100, 3)
    assert abs(time.time_ns() - first.at_ns) < 60e9


def test_what_happens_to_the_system_is_written_down(hasty_rig: Rig, wait_until: WaitUntil) -> None:
    stays, leaves = hasty_rig.add_worker("stays"), hasty_rig.add_worker("leaves")
    hasty_rig.http.put("/admin/workers/stays", json={"role": "prefill"})
    leaves.is_mute = True
    leaves.send(wire.Goodbye("leaves"))
    wait_until(lambda: ("worker_left", "leaves") in incidents(hasty_rig))
    hasty_rig.kill(stays)
    wait_until(lambda: ("worker_lost", "stays") in incidents(hasty_rig))  # each says so over a line of its own
    hasty_rig.add_store(host=TierStatus(limit_bytes=1 << 20))
    wait_until(lambda: ("store_lost", "kv0") in incidents(hasty_rig))
    name = hasty_rig.gateway.gateway.service.recorder.gateway
    hasty_rig.gateway.begin_drain()
    hasty_rig.gateway.wait()
    assert incidents(hasty_rig) == [
        ("gateway_started", name),
        ("worker_joined", "stays"),
        ("worker_joined", "leaves"),
        ("role_changed", "stays"),
        ("worker_left", "leaves"),
        ("worker_lost", "stays"),
        ("store_joined", "kv0"),
        ("store_lost", "kv0"),
        ("gateway_stopped", name),
    ]
    texts = {frame.kind: frame.text for frame in hasty_rig.frames() if isinstance(frame, Incident)}
    assert texts["role_changed"] == "prefill"
    assert texts["worker_lost"] == "exited (killed by signal 9)"
    assert texts["gateway_started"] == f"pid {os.getpid()}"


def test_a_store_that_restarts_within_its_lease_is_written_down(recording_rig: Rig, wait_until: WaitUntil) -> None:
    for started_ns in (7, 7, 8):
        recording_rig.report(StoreStatus("kv0", 1, {Tier.HOST: TierStatus()}, started_ns=started_ns))
    wait_until(lambda: ("store_lost", "kv0") in incidents(recording_rig))
    told = [(frame.kind, frame.text) for frame in recording_rig.frames() if isinstance(frame, Incident)]
    assert told[-3:] == [("store_joined", ""), ("store_lost", "restarted"), ("store_joined", "")]


def test_a_worker_that_cannot_start_is_written_down_with_its_last_words(
    recording_rig: Rig, wait_until: WaitUntil
) -> None:
    recording_rig.add_worker("w0")
    recording_rig.report(wire.WorkerExited("w1", "exited with code 3: no memory", was_ready=False))
    recording_rig.report(wire.WorkerExited("w0", "exited with code 3", was_ready=False))  # ready, and not asked yet
    recording_rig.report(wire.WorkerExited("w2", "was killed by signal 9"))  # lost already, by its lease
    wait_until(lambda: {"worker_lost", "worker_not_started"} <= {kind for kind, _ in incidents(recording_rig)})
    told = [frame for frame in recording_rig.frames() if isinstance(frame, Incident) and "not" in frame.kind]
    assert [(each.subject, each.text) for each in told] == [("w1", "exited with code 3: no memory")]
    assert recording_rig.metrics()["tokenworks_worker_failed_starts_total",] == 1


def test_a_stores_sample_is_of_all_its_tiers(recording_rig: Rig, wait_until: WaitUntil) -> None:
    recording_rig.add_store(
        host=TierStatus(used_bytes=5, limit_bytes=9, hits=3, read_bytes_per_s=2e9),
        disk=TierStatus(used_bytes=7, limit_bytes=8, evictions=2, faults={"checksum": 4}),
        remote=TierStatus(is_up=False, read_bytes_per_s=5e7),
    )
    wait_until(lambda: of_kind(recording_rig, StoreSample))
    [sample] = of_kind(recording_rig, StoreSample)
    assert (sample.store, sample.misses) == ("kv0", 9)
    assert sample.used_bytes == {Tier.HOST: 5, Tier.DISK: 7, Tier.REMOTE: 0}
    assert sample.limit_bytes == {Tier.HOST: 9, Tier.DISK: 8, Tier.REMOTE: 0}
    assert sample.hits == {Tier.HOST: 3, Tier.DISK: 0, Tier.REMOTE: 0}
    assert sample.evictions == {Tier.HOST: 0, Tier.DISK: 2, Tier.REMOTE: 0}
    assert sample.read_bytes_per_s == {Tier.HOST: 2e9, Tier.REMOTE: 0.0}  # what is down gives nothing, whatever it gave
    assert sample.faults == {"disk: checksum": 4}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(samples.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_samples_keep_their_beat_and_make_up_for_nothing(clock: Callable[[float], None]) -> None:
    """Told every 1.01 s: sampled every 5 s, not every sixth time; and once after a silence."""
    written: list[Frame] = []
    told = Samples(written.append, every_s=5.0)
    for _ in range(100):
        told.store_heard(StoreStatus("kv0", 1, {}), is_new=False)
        clock(1.01)
    assert len(written) == 20
    clock(60)
    for _ in range(3):
        told.store_heard(StoreStatus("kv0", 1, {}), is_new=False)
    assert len(written) == 21
