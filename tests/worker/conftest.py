"""Foreign servers and relays that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.foreign_server import ForeignServer, RunningRelay


@pytest.fixture
def foreign(relays: list[RunningRelay]) -> Iterator[Callable[..., ForeignServer]]:
    """Starts scripted servers, which end before the relays: what runs there ends with them."""
    started: list[ForeignServer] = []

    def begin(**options: Any) -> ForeignServer:
        started.append(ForeignServer(**options))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


@pytest.fixture
def relays() -> Iterator[list[RunningRelay]]:
    """What a test puts here is drained at its end."""
    running: list[RunningRelay] = []
    yield running
    for relay in running:
        relay.begin_drain()
        relay.wait()
