"""Who needs an API key."""

from __future__ import annotations

import pytest

from tokenworks.contract.auth import check_keys_have_a_place, is_loopback, needs_key
from tokenworks.contract.config import GatewaySettings, LedgerSettings
from tokenworks.contract.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("127.8.8.8", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "my-host", "")],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    assert needs_key(GatewaySettings(host=host)) is not expected
    assert needs_key(GatewaySettings(host=host, auth="required"))
    assert not needs_key(GatewaySettings(host=host, auth="off"))


def test_a_gateway_that_could_let_nobody_in_is_told_what_to_do() -> None:
    off = LedgerSettings(path="off")
    with pytest.raises(ConfigError, match=r"--ledger-path.*--auth off"):
        check_keys_have_a_place(GatewaySettings(host="0.0.0.0"), off)
    check_keys_have_a_place(GatewaySettings(host="0.0.0.0", auth="off"), off)
    check_keys_have_a_place(GatewaySettings(), off)
    check_keys_have_a_place(GatewaySettings(host="0.0.0.0"), LedgerSettings(path="/somewhere"))
