"""What is derived before anything starts: ports and addresses, threads and cores of unlike workers, the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.config import (
    EngineSettings,
    FleetSettings,
    GatewaySettings,
    KVSettings,
    Settings,
    WorkerGroup,
)
from tokenworks.contract.errors import ConfigError
from tokenworks.fleet.cores import share_of_cores
from tokenworks.fleet.derive import cores_of_workers, derive
from tokenworks.fleet.launch import dial_address, worker_ids


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def workers(threads: int, count: int = 1) -> WorkerGroup:
    return WorkerGroup(count=count, engine=EngineSettings(threads=threads))


RELAY = WorkerGroup(runs="openai", url="http://x")


def derived(checkpoint: Path, num_cores: int = 1, **settings: object) -> Settings:
    given = Settings(model=str(checkpoint), gateway=GatewaySettings(port=0), **settings)  # type: ignore[arg-type]
    return derive(given, Path("/run/x"), num_cores)


def test_nothing_is_left_to_derive(checkpoint: Path) -> None:
    settings = derived(checkpoint, num_cores=5, fleet=FleetSettings(workers=2))
    assert settings.model == str(checkpoint)
    assert settings.gateway.model_name == "some-model"
    assert settings.gateway.port > 0
    assert settings.gateway.worker_address == "ipc:///run/x/workers"
    assert settings.workers == (workers(threads=2, count=2),)
    assert worker_ids(settings) == ["w0", "w1"]


def test_what_a_person_chose_stays(checkpoint: Path, tmp_path: Path) -> None:
    given = Settings(
        model=str(checkpoint),
        gateway=GatewaySettings(port=0, model_name="mine", worker_address="tcp://0.0.0.0:7000"),
        engine=EngineSettings(threads=7),
    )
    settings = derive(given, tmp_path, num_cores=1)
    assert settings.gateway.model_name == "mine"
    assert settings.workers[0].engine.threads == 7
    assert dial_address(settings) == "tcp://127.0.0.1:7000"


@pytest.mark.parametrize(
    ("num_cores", "groups", "expected"),
    [
        (8, [workers(0), workers(0)], [4, 4]),
        (8, [workers(0, count=3), workers(2)], [2, 2]),
        (8, [workers(6), workers(0, count=2)], [6, 1]),
        (2, [workers(2), workers(0)], [2, 1]),
        (2, [workers(4), workers(4)], [4, 4]),
        (4, [workers(0, count=2), RELAY], [2, 0]),
        (4, [RELAY], [0]),
    ],
)
def test_the_cores_are_shared_out_among_those_who_compute(
    checkpoint: Path, num_cores: int, groups: list[WorkerGroup], expected: list[int]
) -> None:
    settings = derived(checkpoint, num_cores, workers=tuple(groups))
    assert [group.engine.threads for group in settings.workers] == expected


def test_memory_is_divided_among_those_who_compute(checkpoint: Path) -> None:
    assert derived(checkpoint, workers=(workers(1, count=3), RELAY)).fleet.workers == 3
    assert derived(checkpoint, workers=(RELAY,)).fleet.workers == 1


@pytest.mark.parametrize(
    ("num_cores", "threads", "expected"),
    [
        (4, [4], [[0, 1, 2, 3]]),
        (4, [2, 2], [[0, 1], [2, 3]]),
        (5, [2, 2], [[0, 1], [2, 3, 4]]),
        (4, [3, 1], [[0, 1, 2], [3]]),
        (8, [1, 3], [[0, 1], [2, 3, 4, 5, 6, 7]]),
        (2, [1, 1], [[0], [1]]),
        (2, [1, 1, 1], [[0], [1], [0]]),
        (4, [3, 3], [[0, 1, 2], [0, 1, 3]]),
        (2, [7, 1], [[0, 1], [1]]),
    ],
)
def test_a_worker_has_cores_for_its_threads(num_cores: int, threads: list[int], expected: list[list[int]]) -> None:
    cores = list(range(num_cores))
    assert [share_of_cores(cores, index, threads) for index in range(len(threads))] == expected


def test_nobody_shares_a_core_while_there_are_enough() -> None:
    for threads in ([1, 2, 3], [5, 1], [2, 2, 2], [1, 1, 1, 1]):
        for num_cores in range(sum(threads), 20):
            shares = [share_of_cores(range(num_cores), index, threads) for index in range(len(threads))]
            assert sorted(core for share in shares for core in share) == list(range(num_cores))
            assert all(len(share) >= wanted for share, wanted in zip(shares, threads, strict=True))


def test_workers_are_kept_on_their_cores_where_several_compute() -> None:
    groups = (workers(1), RELAY, workers(3))
    assert cores_of_workers(Settings(workers=groups), [4, 5, 6, 7]) == {"w0": [4], "w2": [5, 6, 7]}
    assert cores_of_workers(Settings(workers=(RELAY, workers(4))), [0, 1, 2, 3]) == {}


def test_without_a_store_nothing_of_it_is_derived(checkpoint: Path) -> None:
    assert derived(checkpoint).kv == KVSettings()
    by_hand = KVSettings(store_address="ipc:///run/store")
    assert derived(checkpoint, kv=by_hand).kv == by_hand


def test_a_store_has_an_address_memory_and_a_whole_path(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/x")
    disk, home, remote, host = (
        derived(checkpoint, kv=kv).kv
        for kv in (
            KVSettings(disk_path="a/kv"),
            KVSettings(disk_path="~/kv", host_bytes=5),
            KVSettings(remote="redis://x:1"),
            KVSettings(host_bytes=7, store_address="tcp://127.0.0.1:7100"),
        )
    )
    assert (disk.host_bytes, disk.disk_path, disk.store_address) == (1 << 30, f"{tmp_path}/a/kv", "ipc:///run/x/store")
    assert (home.host_bytes, home.disk_path) == (5, "/home/x/kv")
    assert (remote.host_bytes, remote.disk_path) == (1 << 30, "")
    assert (host.host_bytes, host.store_address) == (7, "tcp://127.0.0.1:7100")


@pytest.mark.parametrize("address", ["7100", "tcp://0.0.0.0:7100", "tcp://*:7100", "tcp://x:0", "ipc://" + "x" * 108])
def test_a_store_address_that_is_none_is_refused(checkpoint: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="is no store address"):
        derived(checkpoint, kv=KVSettings(host_bytes=1, store_address=address))
