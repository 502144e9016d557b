"""Where the observer answers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.observe.observer.address import listen, socket_path, tcp_address


def test_an_address_is_host_and_port() -> None:
    assert tcp_address("http://10.0.0.7:7070") == ("10.0.0.7", 7070)
    assert tcp_address("http://[::1]:7070/") == ("::1", 7070)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.7:7070",
        "https://a:1",
        "http://a",
        "http://a:0",
        "http://a:99999",
        "http://:7",
        "http://a:1/b",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        tcp_address(address)


def test_nobody_else_may_open_the_socket(tmp_path: Path) -> None:
    with listen(LedgerSettings(path=str(tmp_path))):
        assert stat.S_IMODE((tmp_path / "observer.sock").stat().st_mode) == 0o600


def test_without_a_ledger_there_is_no_socket() -> None:
    assert socket_path(LedgerSettings(path="off")) is None
