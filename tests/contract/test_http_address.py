"""What counts as an address of a server, and what would only fail when it is first asked."""

from __future__ import annotations

import pytest

from tokenworks.contract.http_address import http_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://10.0.0.7:8000/v1", "10.0.0.7", 8000),
        ("https://hooks.example.com/a?token=b", "hooks.example.com", None),
        ("http://[::1]:7070", "::1", 7070),
        ("http://example.com./", "example.com.", None),
        ("http://münchen.example", "münchen.example", None),
        ("HTTP://localhost", "localhost", None),
    ],
)
def test_an_address_is_taken_apart(text: str, host: str, port: int | None) -> None:
    parts = http_address(text)
    assert parts is not None
    assert (parts.hostname, parts.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "10.0.0.7:8000",
        "ftp://a/b",
        "http://",
        "http:///path",
        "http://:80",
        "http://a:port",
        "http://a:99999",
        "http://[::1",
        "http://hooks..example.com/x",
        "http://.example.com",
        f"http://{'a' * 64}.com",
        "http://a b/c",
        "http://a/b c",
        " http://a",
        "http://a\n",
    ],
)
def test_what_nobody_could_be_reached_at_is_none(text: str) -> None:
    assert http_address(text) is None
