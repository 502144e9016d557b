"""`tokenworks drift` and `tokenworks alerts` over a ledger in a database, and what they say to wrong input."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.observe.drift.test_drift import traffic
from tests.observe.made import HOUR_NS, SECOND_NS, record
from tokenworks.cli.main import main
from tokenworks.contract.config import LedgerSettings
from tokenworks.observe.ledger import Window
from tokenworks.observe.store import open_ledger


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder that the commands find."""
    monkeypatch.setenv("TOKENWORKS_LEDGER_PATH", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def keep(folder: Path, *frames: object) -> None:
    ledger = open_ledger(LedgerSettings(path=str(folder)), is_writing=True)
    ledger.take_in(list(frames))  # type: ignore[arg-type]
    ledger.close()


def keep_drifting_traffic(folder: Path) -> None:
    """An hour of long prompts after an hour of short ones, by a tenant whose name is no markup."""
    now_ns = time.time_ns()
    before, after = Window(now_ns - 2 * HOUR_NS, now_ns - HOUR_NS), Window(now_ns - HOUR_NS, now_ns)
    keep(folder, *traffic(before, 1), *traffic(after, 2, input_scale=3, tenants=("[bold]<b>",)))


def test_drift_names_what_moved_and_from_what_to_what(folder: Path) -> None:
    keep_drifting_traffic(folder)
    result = run("drift", "--since", "1h", "--reference", "1h")
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if line.startswith(" input_tokens")]
    assert "moved" in line
    assert "P50" in line
    assert "[bold]<b>" in result.output
    assert re.search(r"before: \d+ requests from .*\n +now: \d+ requests from ", result.output)
    assert "steady" in result.output
    assert re.search(r"· input_tokens, what grew most: above \d+: \d+% -> \d+%", result.output)


def test_drift_of_a_window_without_a_past_compares_its_halves(folder: Path) -> None:
    keep_drifting_traffic(folder)
    told = json.loads(run("drift", "--since", "3h", "--json").output)
    assert told["are_halves"]
    assert told["reference"]["end_s"] == told["window"]["start_s"]
    assert {each["feature"] for each in told["features"] if each["moved"]} == {"input_tokens", "tenant"}
    assert "its two halves" in run("drift", "--since", "3h").output
    asked = run("drift", "--since", "3h", "--reference", "1d")
    assert "leave --reference out to compare them" in " ".join(asked.output.split())


def test_drift_as_json_has_every_bin(folder: Path) -> None:
    keep_drifting_traffic(folder)
    result = run("drift", "--since", "1h", "--reference", "2h..1h", "--json")
    told = json.loads(result.output)
    assert min(told["requests"], told["reference_requests"]) > 500
    features = {each["feature"]: each for each in told["features"]}
    assert (features["tenant"]["num_after"], features["tenant"]["num_before"]) == (
        told["requests"],
        told["reference_requests"],
    )
    assert {name for name, each in features.items() if each["moved"]} == {"input_tokens", "tenant"}
    assert sum(each["after"] for each in features["input_tokens"]["bins"]) == pytest.approx(1)


def test_a_threshold_of_ones_own_is_used(folder: Path) -> None:
    keep_drifting_traffic(folder)
    result = run("drift", "--since", "1h", "--reference", "1h", "--json", "--alerts-drift-psi", "1000")
    assert not [each for each in json.loads(result.output)["features"] if each["moved"]]


def test_too_little_to_compare_says_what_to_do(folder: Path) -> None:
    keep(folder, record())
    result = run("drift")
    assert result.exit_code == 0
    assert "each window needs 50 requests" in result.output
    assert "now: 0 requests from" in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--since", "yesterday"), "`since` cannot be 'yesterday'"),
        (("--since", "1h", "--until", "2h"), "`since` must be before `until`"),
        (("--reference", "0d"), "`reference` is empty"),
        (("--reference", "week"), "`reference` cannot be 'week'"),
        (("--reference", "1h..2h"), "`since` must be before `until`"),
        (("--alerts-drift-psi", "0"), "a number above 0"),
    ],
)
def test_wrong_windows_are_refused_in_words(folder: Path, arguments: tuple[str, ...], complaint: str) -> None:
    result = run("drift", *arguments)
    assert result.exit_code != 0
    assert complaint in result.output


@pytest.mark.parametrize("command", [("drift",), ("alerts", "list")])
def test_without_a_ledger_the_commands_say_how_to_get_one(folder: Path, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code != 0
    assert "tokenworks serve" in result.output


def test_alerts_that_fire_are_listed(folder: Path) -> None:
    assert run("alerts", "list").exit_code != 0
    now_ns = time.time_ns()
    failed = {"outcome": "worker_lost", "status": 502}
    keep(folder, *[record(number, ended_ns=now_ns - SECOND_NS, **failed) for number in range(20)])
    result = run("alerts", "list")
    assert result.output.startswith("page    ErrorBudgetBurn online: 20 of 20 online requests")
    alerts = json.loads(run("alerts", "list", "--json").output)["alerts"]
    assert {each["severity"] for each in alerts} == {"page", "ticket"}


def test_silence_is_said_too(folder: Path) -> None:
    keep(folder, record())
    assert run("alerts", "list").output == "no alert fires\n"


def test_a_test_alert_without_a_receiver_says_how_to_name_one() -> None:
    result = run("alerts", "test")
    assert result.exit_code == 2
    assert "--alerts-kind" in result.output


def test_a_test_alert_that_nobody_can_sign_for_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    arguments = [
        "--alerts-kind",
        "dingtalk",
        "--alerts-url",
        "https://x/y",
        "--alerts-secret-variable",
        "NO_SUCH_SECRET",
    ]
    result = run("alerts", "test", *arguments)
    assert result.exit_code == 2
    assert "NO_SUCH_SECRET, which is not set" in result.output


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """An address, and what came there: the path and the status told; at /gone nobody wants it."""
    told: list[tuple[str, str]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notice = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.append((self.path, notice["status"]))
            self.send_response(404 if self.path == "/gone" else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", told
        server.shutdown()


def test_a_test_alert_goes_to_every_receiver_and_says_which_did_not_take_it(
    receiver: tuple[str, list[tuple[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, told = receiver
    monkeypatch.chdir(tmp_path)
    entries = "".join(f'[[alerts.receivers]]\nurl = "{url}/{name}"\n' for name in ("gone", "pages"))
    Path("tokenworks.toml").write_text(
        f'[alerts]\nkind = "webhook"\nurl = "{url}/all"\n{entries}severities = ["page"]\n'
    )
    result = run("alerts", "test")
    assert told == [
        ("/all", "firing"),
        ("/all", "resolved"),
        ("/gone", "firing"),
        ("/pages", "firing"),
        ("/pages", "resolved"),
    ]
    assert result.exit_code == 1
    assert "not delivered: webhook at 127.0.0.1 answered 404" in result.output
    assert result.output.count("and taken there") == 2
