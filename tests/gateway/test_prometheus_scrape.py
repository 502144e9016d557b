"""A real Prometheus scrapes a real gateway by the example configuration: figures, exemplars and rules arrive."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.free_port import free_port

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
TRACE = "0af7651916cd43dd8448eb211c80319c"
pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)


class Prometheus:
    """One that scrapes a gateway every second."""

    def __init__(self, folder: Path, target: str) -> None:
        config = (DEPLOY / "prometheus.yml").read_text()
        assert "127.0.0.1:8000" in config
        config = config.replace("127.0.0.1:8000", target).replace("15s", "1s").replace("30s", "1s")
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(DEPLOY / "rules.yml", folder)
        address = f"127.0.0.1:{free_port()}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--enable-feature=exemplar-storage",
            ],
            stderr=self._log,
        )
        self._http = httpx.Client(base_url=f"http://{address}/api/v1", timeout=60)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; None while there is none."""
        with suppress(httpx.TransportError):
            answer = self._http.get(path, params=parameters)
            if answer.status_code == 200:
                return answer.json()["data"]
        return None

    def value(self, query: str) -> float | None:
        """Of an instant query with one result."""
        found = self.ask("query", query=query)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def close(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture
def prometheus(bare_rig: Any, tmp_path: Path) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path, bare_rig.gateway.url.removeprefix("http://"))
    yield running
    running.close()


def test_prometheus_reads_what_a_gateway_shows(
    bare_rig: Any, prometheus: Prometheus, wait_until: Callable[[Callable[[], object]], None]
) -> None:
    bare_rig.add_worker()
    for number in range(3):
        answer = bare_rig.http.post(
            "/v1/completions",
            json={"prompt": "the quick brown", "max_tokens": 4, "service_tier": "flex" if number else "default"},
            headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        )
        assert answer.status_code == 200
    count = "sum(gen_ai_server_request_duration_seconds_count)"
    wait_until(lambda: prometheus.value(count) == 3)
    assert prometheus.value('sum(tokenworks_records_total{scenario="offline"})') == 2
    wait_until(lambda: prometheus.value("tokenworks_worker_running") == 0)  # as the worker's next heartbeat says
    assert prometheus.value("tokenworks_objective_success_ratio") == 0.99
    wait_until(lambda: prometheus.value("tokenworks:error_budget") is not None)
    assert prometheus.value("tokenworks:error_budget") == pytest.approx(0.01)

    found = prometheus.ask(
        "query_exemplars",
        query="gen_ai_server_request_duration_seconds_bucket",
        start="2020-01-01T00:00:00Z",
        end="2100-01-01T00:00:00Z",
    )
    traces = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
    assert traces == {TRACE}

    def healths() -> set[str]:
        groups = (prometheus.ask("rules") or {"groups": []})["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}

    wait_until(lambda: healths() == {"ok"})
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
