"""What is derived before anything starts, and the small parts that look at ports, health and last words."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tokenworks.contract.config import EngineSettings, FleetSettings, GatewaySettings, Settings
from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.fleet.child import last_words
from tokenworks.fleet.console import usage
from tokenworks.fleet.health import ready_children
from tokenworks.fleet.launch import child_command, derive, dial_address, resolve_model, share_of_cores, worker_ids
from tokenworks.fleet.port import claim_port, holder_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_nothing_is_left_to_derive(checkpoint: Path, tmp_path: Path) -> None:
    given = Settings(model=str(checkpoint), gateway=GatewaySettings(port=0), fleet=FleetSettings(workers=2))
    derived = derive(given, tmp_path, num_cores=5)
    assert derived.model == str(checkpoint)
    assert derived.gateway.model_name == "some-model"
    assert derived.gateway.port > 0
    assert derived.gateway.worker_address == f"ipc://{tmp_path}/workers"
    assert derived.engine.threads == 2
    assert worker_ids(derived) == ["w0", "w1"]


def test_what_a_person_chose_stays(checkpoint: Path, tmp_path: Path) -> None:
    given = Settings(
        model=str(checkpoint),
        gateway=GatewaySettings(port=0, model_name="mine", worker_address="tcp://0.0.0.0:7000"),
        engine=EngineSettings(threads=7),
    )
    derived = derive(given, tmp_path, num_cores=1)
    assert derived.gateway.model_name == "mine"
    assert derived.engine.threads == 7
    assert dial_address(derived) == "tcp://127.0.0.1:7000"


def test_a_model_is_found_from_the_current_folder_and_named_by_its_folder(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint)
    settings = resolve_model(Settings(model="."))
    assert (settings.model, settings.gateway.model_name) == (str(checkpoint), "some-model")


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model at"):
        resolve_model(Settings(model=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_model(Settings(model=str(tmp_path)))


def test_a_childs_command_line_names_tokenworks_and_its_part() -> None:
    settings = Settings(gateway=GatewaySettings(worker_address="ipc:///run/x/workers"))
    worker = child_command("w1", settings, Path("/run/x"))
    assert worker[:5] == [sys.executable, "-P", "-m", "tokenworks", "worker"]
    assert worker[5:9] == ["--id", "w1", "--gateway", "ipc:///run/x/workers"]
    assert worker[9:] == ["--settings", "/run/x/settings.json", "--parent", str(os.getpid())]
    assert child_command("gateway", settings, Path("/run/x"))[4:6] == ["gateway", "--settings"]


@pytest.mark.parametrize(
    ("num_cores", "num_workers", "expected"),
    [
        (4, 1, [[0, 1, 2, 3]]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
        (2, 2, [[0], [1]]),
        (2, 3, [[0], [1], [0]]),
    ],
)
def test_cores_are_shared_out(num_cores: int, num_workers: int, expected: list[list[int]]) -> None:
    cores = list(range(num_cores))
    assert [share_of_cores(cores, index, num_workers) for index in range(num_workers)] == expected


def test_a_free_port_is_found_and_a_busy_one_has_a_holder() -> None:
    assert claim_port("127.0.0.1", 0) > 0
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert f"process {os.getpid()} " in (holder_of(port) or "")
        with pytest.raises(StartupError, match=f"port {port} is busy"):
            claim_port("127.0.0.1", port)
    assert holder_of(port) is None
    assert claim_port("127.0.0.1", port) == port


@pytest.mark.parametrize("host", ["no such host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with pytest.raises(StartupError, match="--host"):
        claim_port(host, 0)


def test_last_words_are_the_last_error_or_the_last_lines() -> None:
    assert last_words(["error: first", "noise", "error: no shard", "  fetch it again", ""]) == (
        "no shard\n  fetch it again"
    )
    assert last_words(["1", "2", "", "3", "4", "5", "6"]) == "2\n3\n4\n5\n6"
    assert last_words([]) == ""


def test_usage_is_ready_to_paste() -> None:
    text = usage(Settings(gateway=GatewaySettings(host="0.0.0.0", port=81, model_name="it's")))
    assert "http://127.0.0.1:81/v1/chat/completions" in text
    assert """-d '{"model": "it'\\''s", """ in text
    assert "http://[::1]:8000/v1" in usage(Settings(gateway=GatewaySettings(host="::")))


class Answers(HTTPServer):
    """A gateway's health as this test likes it."""

    body = b""


@pytest.fixture
def answers() -> Iterator[Answers]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.server, Answers)
            self.send_response(503)
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with Answers(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"status": "ready", "workers": ["w0", "w2"]}', ["w0", "w2"]),
        (b'{"workers": []}', []),
        (b'{"workers": [1, null, "w0"]}', ["w0"]),
        (b'{"workers": 3}', []),
        (b"[]", []),
        (b"", []),
    ],
)
def test_the_gateway_is_ready_when_it_answers_and_a_worker_when_it_is_listed(
    answers: Answers, body: bytes, expected: list[str]
) -> None:
    answers.body = body
    assert ready_children("0.0.0.0", answers.server_port) == ["gateway", *expected]


def test_what_does_not_answer_or_answers_something_else_is_not_ready(answers: Answers) -> None:
    answers.body = b"not json"
    assert ready_children("127.0.0.1", answers.server_port) == []
    assert ready_children("127.0.0.1", claim_port("127.0.0.1", 0)) == []
