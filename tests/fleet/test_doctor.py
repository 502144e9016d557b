"""Each check of the doctor, against what it should think of it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from tokenworks.contract.config import GatewaySettings, KVSettings, Settings, WorkerGroup
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.extras import install_command
from tokenworks.contract.folders import BLOCK_FOLDER
from tokenworks.fleet.doctor import (
    check_cores,
    check_cpu,
    check_folder,
    check_kernel_cache,
    check_kernels,
    check_memory,
    check_model,
    check_packages,
    check_port,
    check_python,
    check_torch,
    examine,
)
from tokenworks.fleet.finding import Finding, Verdict
from tokenworks.fleet.packages import is_met, requirements
from tokenworks.fleet.store_checks import check_extra, check_store, check_store_disk, check_store_memory

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL


def test_python_must_be_new_enough() -> None:
    assert check_python((3, 11, 0)).verdict is OK
    assert check_python((4, 0, 0)).verdict is OK
    assert check_python((3, 10, 9)).verdict is FAIL


def test_the_packages_of_this_very_test_run_are_fine() -> None:
    assert check_packages().verdict is OK
    assert check_torch().verdict is not FAIL


def test_a_requirement_is_met_by_a_version_as_new() -> None:
    assert is_met("click>=8.1")
    assert not is_met("click>=99")
    assert not is_met("no-such-package>=1")
    assert is_met("click[extra]>=8.1")
    assert is_met("click")


def test_a_requirement_may_have_two_ends() -> None:
    assert is_met("click<99,>=8.1")
    assert not is_met("click<8.0,>=7")
    assert not is_met("click>=99,<100")


def test_optional_packages_are_told_apart_from_those_always_needed() -> None:
    assert "click>=8.1" in requirements()
    assert any(line.startswith("pytest>=") for line in requirements("dev"))
    assert not any(line.startswith("pytest>=") for line in requirements())


def test_an_optional_set_is_there_or_how_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_extra("dev", "a test").verdict is OK
    monkeypatch.setattr("tokenworks.fleet.packages.metadata.requires", lambda name: ["nowhere>=1; extra == 'remote'"])
    finding = check_extra("remote", "kv.remote")
    assert (finding.verdict, finding.found) == (FAIL, "kv.remote needs nowhere>=1")
    assert finding.advice == install_command("remote")
    assert check_extra("unheard-of", "a test").verdict is WARN


@pytest.mark.parametrize(
    ("flags", "verdict", "found"),
    [
        ({"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, OK, "amx_bf16, avx512_bf16, avx512f, avx2"),
        ({"avx2", "sse"}, OK, "avx2; bfloat16 is computed in float32"),
        ({"sse"}, WARN, "no vector instructions"),
        (None, WARN, "unknown on darwin"),
    ],
)
def test_cpu_features_are_judged(flags: set[str] | None, verdict: Verdict, found: str) -> None:
    finding = check_cpu(None if flags is None else frozenset(flags), "darwin")
    assert finding.verdict is verdict
    assert found in finding.found


def test_kernels_that_could_run_here_but_were_not_built_are_a_warning(tmp_path: Path) -> None:
    able, old = frozenset({"avx512f", "avx512_bf16"}), frozenset({"avx2"})
    verdicts = [check_kernels(*case).verdict for case in ((tmp_path, able), (None, able), (None, old), (None, None))]
    assert verdicts == [OK, WARN, OK, OK]
    assert "g++" in check_kernels(None, able).advice


def test_more_workers_than_cores_and_little_memory_are_warnings() -> None:
    assert [check_cores(2, workers).verdict for workers in (1, 2, 3)] == [OK, OK, WARN]
    assert [check_memory(amount).verdict for amount in (8 << 30, 1 << 30, None)] == [OK, WARN, WARN]


def test_a_busy_port_fails_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        finding = check_port(Settings(gateway=GatewaySettings(port=holder.getsockname()[1])))
    assert finding.verdict is FAIL
    assert "--port" in finding.found
    assert check_port(Settings(gateway=GatewaySettings(port=0))).verdict is OK


def test_a_missing_model_fails(tmp_path: Path) -> None:
    missing = check_model(Settings(model=str(tmp_path / "none")))
    assert (missing.verdict, missing.advice[:24]) == (FAIL, "give a checkpoint folder")
    (tmp_path / "config.json").write_text("{}")
    assert check_model(Settings(model=str(tmp_path))).verdict is OK


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_nearest_parent(tmp_path: Path) -> None:
    assert check_folder("cache", tmp_path / "a" / "b", "advice").verdict is OK
    (tmp_path / "file").write_text("")
    finding = check_folder("cache", tmp_path / "file" / "b", "advice")
    assert (finding.verdict, finding.advice) == (FAIL, "advice")
    assert "cannot be written to" in finding.found
    assert check_folder("cache", tmp_path / "file" / "b", "advice", WARN).verdict is WARN


def test_without_a_place_for_kernels_each_start_compiles_them(tmp_path: Path) -> None:
    assert check_kernel_cache(tmp_path).verdict is OK
    assert check_kernel_cache(None).verdict is WARN


def test_wrong_settings_are_a_finding_and_the_other_checks_go_on() -> None:
    def load() -> Settings:
        raise ConfigError("unknown key `x`")

    findings = list(examine(load))
    assert findings[0] == Finding("settings", FAIL, "unknown key `x`", "correct it; the checks below use the defaults")
    assert len(findings) > 5


def test_without_a_store_nothing_of_it_is_looked_at() -> None:
    assert list(check_store(Settings(), 1 << 30)) == []


def test_a_device_whose_kv_cannot_be_exchanged_fails() -> None:
    settings = Settings(workers=(WorkerGroup(runs="openvino", device="NPU"), WorkerGroup(runs="openvino")))
    [finding] = [each for each in check_store(settings, None) if each.what == "openvino device"]
    assert (finding.verdict, finding.advice) == (FAIL, 'set device = "CPU" in [[workers]]')
    assert "NPU" in finding.found
    assert "CPU" not in finding.found


def test_a_store_and_openvino_are_looked_at_where_they_are_asked_for(tmp_path: Path) -> None:
    kv = KVSettings(disk_path=str(tmp_path), remote="redis://x")
    settings = Settings(kv=kv, workers=(WorkerGroup(runs="openvino"),))
    assert [finding.what for finding in check_store(settings, 8 << 30)] == [
        "kv memory",
        "kv disk",
        "remote",
        "openvino",
    ]


def test_the_stores_memory_must_be_there_and_leave_some() -> None:
    kv = KVSettings(host_bytes=4 << 30)
    verdicts = [check_store_memory(kv, available).verdict for available in (16 << 30, 6 << 30, 2 << 30, None)]
    assert verdicts == [OK, WARN, FAIL, OK]
    assert check_store_memory(KVSettings(remote="redis://x"), 1 << 40).found.startswith("1.0 GiB of")


def test_the_stores_folder_must_be_writable_and_have_room_for_what_it_may_hold(tmp_path: Path) -> None:
    assert check_store_disk(KVSettings(disk_path=str(tmp_path / "new"), disk_bytes=1)).verdict is OK
    finding = check_store_disk(KVSettings(disk_path=str(tmp_path), disk_bytes=1 << 60))
    assert (finding.verdict, "disk_bytes" in finding.advice) == (WARN, True)
    (tmp_path / "file").write_text("")
    finding = check_store_disk(KVSettings(disk_path=str(tmp_path / "file" / "kv")))
    assert (finding.verdict, "disk_path" in finding.advice) == (FAIL, True)


def test_a_link_to_nothing_is_no_place_for_the_stores_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert check_store_disk(KVSettings(disk_path=str(tmp_path / "link" / "kv"), disk_bytes=1)).verdict is FAIL


def test_the_blocks_that_a_folder_holds_already_need_no_more_room(tmp_path: Path) -> None:
    wanted = KVSettings(disk_path=str(tmp_path), disk_bytes=shutil.disk_usage(tmp_path).free + (1 << 39))
    blocks = tmp_path / BLOCK_FOLDER / "ab"
    blocks.mkdir(parents=True)
    (blocks / "lost").symlink_to("nowhere")
    for folder, verdict in ((tmp_path, WARN), (blocks, OK)):  # what is not a store's is nothing that it could drop
        with (folder / "file").open("wb") as file:
            file.truncate(1 << 40)  # sparse: it takes no room
        assert check_store_disk(wanted).verdict is verdict
