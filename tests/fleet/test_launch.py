"""How children are named and started, and the small parts that look at ports, health and last words."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tokenworks.contract.config import FleetSettings, GatewaySettings, Settings, WorkerGroup
from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.fleet.child import last_words
from tokenworks.fleet.console import usage
from tokenworks.fleet.health import ready_children
from tokenworks.fleet.launch import child_command, group_index, kinds_of_workers, resolve_model, worker_ids
from tokenworks.fleet.port import claim_port, held_port, holder_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


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
    groups = (WorkerGroup(), WorkerGroup(count=2))
    settings = Settings(gateway=GatewaySettings(worker_address="ipc:///run/x/workers"), workers=groups)
    gateway, store, worker = (child_command(name, settings, Path("/run/x")) for name in ("gateway", "kv0", "w2"))
    assert worker[:5] == [sys.executable, "-P", "-m", "tokenworks", "worker"]
    assert worker[5:11] == ["--id", "w2", "--group", "1", "--gateway", "ipc:///run/x/workers"]
    assert worker[11:] == ["--settings", "/run/x/settings.json", "--parent", str(os.getpid())]
    assert gateway[4:6] == ["gateway", "--settings"]
    assert store[4:] == ["kvstore", "--id", "kv0", "--gateway", "ipc:///run/x/workers", *worker[11:]]


def test_workers_are_numbered_through_all_kinds() -> None:
    one, two = WorkerGroup(role="prefill"), WorkerGroup(count=2, role="decode")
    settings = Settings(workers=(one, two))
    assert worker_ids(settings) == ["w0", "w1", "w2"]
    assert [group_index(settings, name) for name in worker_ids(settings)] == [0, 1, 1]
    assert kinds_of_workers(settings) == {"w0": one, "w1": two, "w2": two}
    assert worker_ids(Settings(fleet=FleetSettings(workers=3))) == ["w0", "w1", "w2"]


def test_a_free_port_is_found_and_a_busy_one_has_a_holder() -> None:
    assert claim_port("127.0.0.1", 0) > 0
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert f"process {os.getpid()} " in (holder_of(port) or "")
        with pytest.raises(StartupError, match=f"port {port} is busy"):
            claim_port("127.0.0.1", port)
    assert holder_of(port) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port that is held cannot be listened on")
def test_a_held_port_is_the_gateways_and_nobody_elses() -> None:
    with held_port("127.0.0.1", 0) as port:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        for _ in range(2):  # it is started again
            with socket.create_server(("127.0.0.1", port)), pytest.raises(StartupError, match=f"port {port} is busy"):
                claim_port("127.0.0.1", port)
        assert claim_port("127.0.0.1", port) == port
    with pytest.raises(StartupError, match="--host"), held_port("192.0.2.1", 0):
        pass


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


def test_usage_says_when_a_key_is_needed() -> None:
    text = usage(Settings(gateway=GatewaySettings(host="0.0.0.0")))
    assert '\\\n    -H "Authorization: Bearer $TOKENWORKS_API_KEY" \\\n    -d ' in text
    assert "tokenworks key add" in text
    assert "key" not in usage(Settings())


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
        (b'{"workers": ["w0"], "stores": ["kv0"]}', ["w0", "kv0"]),
        (b'{"stores": {"kv0": 1}}', []),
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
