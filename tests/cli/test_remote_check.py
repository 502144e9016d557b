"""What `tokenworks doctor` says of a remote KV tier: a real Redis that answers, and none."""

from __future__ import annotations

import pytest

from tests.free_port import free_port
from tests.kv.tiers.conftest import RedisServer, redis_server
from tokenworks.cli.doctor_page import show_findings
from tokenworks.cli.remote_check import check_remote_answers
from tokenworks.contract.config import GatewaySettings, KVSettings, Settings
from tokenworks.fleet.finding import Verdict

__all__ = ["redis_server"]  # a fixture


def test_a_server_that_answers_is_fine(redis_server: RedisServer) -> None:
    finding = check_remote_answers(redis_server.url)
    assert finding is not None
    assert finding.verdict is Verdict.OK
    assert finding.found.startswith(f"{redis_server.url} answers")


def test_a_server_that_is_not_there_is_a_warning_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    finding = check_remote_answers(url)
    assert finding is not None
    assert finding.verdict is Verdict.WARN
    assert "start it, or correct kv.remote" in finding.found
    assert "secret" not in finding.found
    settings = Settings(kv=KVSettings(remote=url), gateway=GatewaySettings(port=0))
    show_findings(lambda: settings)
    assert "remote server" in capsys.readouterr().out


def test_an_address_that_is_none_is_told_elsewhere() -> None:
    assert check_remote_answers("ftp://somewhere") is None
