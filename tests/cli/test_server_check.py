"""What `tokenworks doctor` says of the servers that `[[workers]]` names."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.foreign_server import ForeignServer
from tests.kv.tiers.conftest import free_port
from tokenworks.cli import server_check
from tokenworks.cli.doctor_page import show_findings
from tokenworks.cli.server_check import check_servers
from tokenworks.contract.config import GatewaySettings, Settings, WorkerGroup
from tokenworks.fleet.finding import Finding, Verdict


@pytest.fixture(scope="module")
def server() -> Iterator[ForeignServer]:
    server = ForeignServer()
    yield server
    server.stop()


def finding_of(url: str, **entry: str) -> Finding:
    [finding] = check_servers(Settings(workers=(WorkerGroup(), WorkerGroup(runs="openai", url=url, **entry))))  # type: ignore[arg-type]
    return finding


def test_a_server_that_answers_is_fine(server: ForeignServer) -> None:
    finding = finding_of(server.url)
    assert finding == Finding("server", Verdict.OK, f"{server.url} answers, and serves scripted")


def test_a_server_that_is_not_there_fails_and_serve_would_too(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    finding = finding_of(url)
    assert (finding.verdict, finding.advice) == (Verdict.FAIL, "start that server first, or correct its `url`")
    settings = Settings(workers=(WorkerGroup(runs="openai", url=url),), gateway=GatewaySettings(port=0))
    assert not show_findings(lambda: settings)
    assert "server" in capsys.readouterr().out


def test_another_model_and_a_key_that_is_not_set_fail(server: ForeignServer) -> None:
    assert "does not serve `other`; set `upstream_model` to one of: scripted" in (
        finding_of(server.url, upstream_model="other").found
    )
    assert "NOBODYS_KEY, which is not set" in finding_of(server.url, key_variable="NOBODYS_KEY").found


def test_a_server_that_says_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_check, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        finding = finding_of(f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
    assert (finding.verdict, finding.advice) == (Verdict.FAIL, "look at its log")
