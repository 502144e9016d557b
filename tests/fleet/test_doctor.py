"""Each check of the doctor, against what it should think of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tokenworks.contract.config import GatewaySettings, Settings
from tokenworks.contract.errors import ConfigError
from tokenworks.fleet.doctor import (
    Finding,
    Verdict,
    check_cores,
    check_cpu,
    check_folder,
    check_kernels,
    check_memory,
    check_model,
    check_packages,
    check_port,
    check_python,
    check_torch,
    examine,
    is_met,
)

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
    assert check_model(Settings(model=str(tmp_path / "none"))).verdict is FAIL
    (tmp_path / "config.json").write_text("{}")
    assert check_model(Settings(model=str(tmp_path))).verdict is OK


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_nearest_parent(tmp_path: Path) -> None:
    assert check_folder("cache", tmp_path / "a" / "b", "advice").verdict is OK
    (tmp_path / "file").write_text("")
    finding = check_folder("cache", tmp_path / "file" / "b", "advice")
    assert (finding.verdict, finding.advice) == (FAIL, "advice")


def test_wrong_settings_are_a_finding_and_the_other_checks_go_on() -> None:
    def load() -> Settings:
        raise ConfigError("unknown key `x`")

    findings = list(examine(load))
    assert findings[0] == Finding("settings", FAIL, "unknown key `x`", "correct it; the checks below use the defaults")
    assert len(findings) > 5
