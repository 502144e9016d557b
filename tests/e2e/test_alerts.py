"""A worker is killed in a running system: the observer tells a receiver, `/metrics` shows it, and the log has it."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Served

pytestmark = pytest.mark.slow


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and what came."""
    told: list[dict[str, Any]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/alerts", told
        server.shutdown()


def test_a_killed_worker_is_told_of(
    serve: Callable[..., Served],
    wait_for: Callable[[Callable[[], object], str], None],
    receiver: tuple[str, list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    url, told = receiver
    alerts = ("--alerts-kind", "webhook", "--alerts-url", url, "--alerts-interval-s", "1")
    served = serve("--ledger-path", str(tmp_path / "state"), *alerts)
    wait_for(lambda: served.metric("tokenworks_observer_up") == 1, "the observer's figures")
    assert math.isnan(served.metric("tokenworks_alerts_firing"))
    (pid,) = served.worker_pids()
    os.kill(pid, signal.SIGKILL)

    wait_for(lambda: told, "an alert")
    (notice,) = told
    assert (notice["alert"], notice["status"], notice["severity"]) == ("WorkerLost", "firing", "ticket")
    worker = notice["subject"]
    assert notice["summary"].startswith(f"worker {worker} was lost")
    wait_for(lambda: served.metric("tokenworks_alerts_firing", alert="WorkerLost", subject=worker) == 1, "the metric")
    assert f"alert WorkerLost/{worker}/ticket (firing)" in served.log.read_text()
    assert len(told) == 1
