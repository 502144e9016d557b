"""The heartbeat's thread, at a gateway, which beats on whatever happens to one beat."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.worker.gateway_end import Gateway
from tokenworks.contract.wire import Load
from tokenworks.worker import heartbeat
from tokenworks.worker.heartbeat import HeartbeatThread


def test_a_beat_that_fails_is_told_and_the_next_one_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.01)
    loads = [OSError(24, "Too many open files"), ValueError("an unforeseen number")]

    def load() -> Load:
        if loads:
            raise loads.pop(0)
        return Load(0, 0, 1, 1, steps=0, preemptions=0, draft_tokens=0, accepted_tokens=0)

    gateway = Gateway(address := f"ipc://{tmp_path}/workers")
    thread = HeartbeatThread("w", [address], load)
    with caplog.at_level(logging.ERROR):
        thread.start()
        gateway.take_until(lambda: len(gateway.beats) >= 2)
        thread.stop()
        thread.join()
    gateway.close()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError, ValueError]
