"""The store under everything at once, for a few seconds; `python -m tests.kv.chaos --seconds 600` takes its time."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.kv.chaos import Chaos
from tests.kv.tiers.conftest import RedisServer, redis_server

__all__ = ["redis_server"]  # a fixture


@pytest.mark.slow
def test_whatever_happens_bytes_are_right_and_nothing_leaks(redis_server: RedisServer) -> None:
    # pytest's own folders are too long for a socket's name
    with tempfile.TemporaryDirectory(prefix="kv") as folder, Chaos(Path(folder), 1, redis_server) as chaos:
        chaos.run(5.0)
        chaos.check()
    assert chaos.done, "no harm was done"
