"""The example in examples/rag, as its README runs it: its spans and the gateway's records meet in one trace.

The system around it logs JSON and exports its own spans, to a collector in this process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from tests.free_port import free_port
from tests.observe.otlp_rig import Receiver, running
from tokenworks.cli.main import main

HOW = "needs what examples/rag/requirements.txt names: .venv/bin/pip install -r examples/rag/requirements.txt"
pytest.importorskip("opentelemetry.sdk.trace", reason=HOW)
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason=HOW)
pytest.importorskip("usearch", reason=HOW)

ROOT = Path(__file__).parent.parent.parent
QUESTION = "Which server software can be a worker in the pool?"
PASSAGES = 3
PLACES = ["--zone", "zone-a", "--ledger-path"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    """Somebody else's collector: what our system exports ends here."""
    receiver = Receiver()
    with running(receiver.traces) as receiver.url:
        yield receiver


@pytest.fixture(scope="module")
def system(serve: Callable[..., Any], folder: Path, collector: Receiver) -> Any:
    places = [*PLACES, str(folder), "--otlp-endpoint", collector.url]
    return serve(*places, "--log-format", "json")


@pytest.fixture(scope="module")
def gateway(system: Any) -> str:
    return str(system.url)


@pytest.fixture(scope="module")
def rag(gateway: str, wait_for: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The two services of the example; the address that answers."""
    port, origin_port = free_port(), free_port()
    log = tmp_path_factory.mktemp("rag") / "log"
    places = ["--gateway", gateway, "--port", str(port), "--origin-port", str(origin_port)]
    with log.open("wb") as file:
        command = [sys.executable, str(ROOT / "examples" / "rag"), *places]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "NO_PROXY": "*"})
    try:
        wait_for(lambda: answers(port, process, log) and answers(origin_port, process, log), "the example's services")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def answers(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def ask(rag: str, question: str = QUESTION) -> dict[str, Any]:
    answer = httpx.post(f"{rag}/answer", json={"question": question}, timeout=120)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def chains(folder: Path, *arguments: str) -> Any:
    """What the command prints; None where it does not know (yet)."""
    done = CliRunner().invoke(main, ["chains", "--json", *PLACES, str(folder), *arguments])
    return json.loads(done.stdout) if done.exit_code == 0 else None


def test_a_question_is_one_trace_from_retrieval_to_the_last_decode_step(rag: str, folder: Path, wait_for: Any) -> None:
    asked = [ask(rag), ask(rag)]
    assert all(len(answer["sources"]) == PASSAGES and answer["answer"] for answer in asked)
    assert any("foreign-servers" in source for source in asked[0]["sources"])

    def known() -> bool:
        found = [chains(folder, answer["trace_id"]) for answer in asked]
        return all(chain and {"POST /answer", "decode"} <= names(chain) for chain in found)

    wait_for(known, "both traces")
    chain = chains(folder, asked[0]["trace_id"])
    wanted = {"POST /answer", "vector search", "text search", "rerank", "passage cache", "GET", "GET /passages"}
    assert wanted | {"prefill", "decode"} <= names(chain)
    assert chain["num_orphans"] == 0
    root = chain["links"][0]["span"]
    assert (root["service"], root["name"]) == ("rag", "POST /answer")
    assert sum(link["critical_ns"] for link in chain["links"]) == root["duration_ns"]
    assert len(chain["request_ids"]) == 1


def names(chain: dict[str, Any]) -> set[str]:
    return {link["span"]["name"] for link in chain["links"]}


def test_the_breakdown_shows_hits_origin_zones_and_the_path(rag: str, folder: Path, wait_for: Any) -> None:
    found: dict[str, Any] = {}

    def known() -> bool:
        found.update(chains(folder) or {})
        return found.get("traces", 0) >= 2 and any(row["name"] == "GET /passages" for row in found["rows"])

    wait_for(known, "the breakdown")
    rows = {(row["service"], row["name"]): row for row in found["rows"]}
    cache = rows["rag", "passage cache"]
    # The second question found what the first had fetched.
    assert (cache["count"], cache["hit_rate"]) == (2 * PASSAGES, 0.5)
    assert cache["origin_p99_s"] > 0
    assert rows["rag", "GET"]["cross_zone_share"] == 1.0
    assert rows["documents", "GET /passages"]["count"] == PASSAGES
    assert rows["tokenworks", "chat embedded"]["cross_zone_share"] == 0.0
    assert sum(row["critical_share"] for row in found["rows"]) == pytest.approx(1)
    model_call = sum(row["tail_share"] for row in found["rows"] if row["service"] == "tokenworks")
    assert 0 < model_call < 1


def test_an_origin_that_does_not_answer_is_told_as_an_error(rag: str) -> None:
    assert httpx.post(f"{rag}/answer", content=b"no json", timeout=60).status_code == 400


def test_our_own_spans_reach_another_collector(rag: str, collector: Receiver, wait_for: Any) -> None:
    trace_id = ask(rag)["trace_id"]

    def told() -> list[str]:
        return [span.name for span in collector.spans if span.trace_id == trace_id]

    wait_for(lambda: {"chat embedded", "prefill", "decode"} <= set(told()), "our spans at the collector")
    assert {span.service for span in collector.spans} == {"tokenworks"}
    assert len(told()) == len(set(told()))
    assert collector.intake.counts.rejected == collector.intake.counts.cut == 0


def test_every_log_line_is_json_and_the_requests_line_names_its_trace(rag: str, system: Any, wait_for: Any) -> None:
    trace_id = ask(rag)["trace_id"]

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in system.log.read_text().splitlines() if line.startswith("{")]

    wait_for(lambda: any(line.get("trace_id") == trace_id for line in lines()), "the request's line")
    (line,) = [line for line in lines() if line.get("trace_id") == trace_id]
    assert (line["part"], line["outcome"], line["path"]) == ("gateway", "ok", "/v1/chat/completions")
    assert {"gateway", "w0", "tokenworks"} <= {line["part"] for line in lines()}
    rest = [line for line in system.log.read_text().splitlines() if line and not line.startswith("{")]
    assert not [line for line in rest if "INFO" in line or line.startswith("[")]
