"""`tokenworks explain` and `tokenworks diagnose` as a person meets them: on a real ledger, in 80 columns, and wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.cli.main import main
from tokenworks.contract.config import CostSettings, LedgerSettings, ObjectiveSettings
from tokenworks.contract.record import Incident, Leg, Record, Stage
from tokenworks.observe.ledger import Span, Window
from tokenworks.observe.store import open_ledger

EVIL = "\x1b[31mred[bold]\u202e\r\n"
EVIL_SHOWN = r"\x1b[31mred[bold]\u202e\r\n"
TRACE = "a" * 32
WINDOW = ("--since", str(NOW.start_ns // 10**9), "--until", str(NOW.end_ns // 10**9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a slow minute, and one request that somebody wanted to break a terminal with."""
    folder = tmp_path_factory.mktemp("state")
    scene = Scene().usual(BEFORE, 60).requests(NOW, 40, {Stage.WRITE: 400})
    evil = scene.frames[-1]
    assert isinstance(evil, Record)
    legs = [Leg(EVIL, reason=EVIL, span_ns=10**8, outcome="lost"), *evil.legs]
    scene.frames[-1] = msgspec.structs.replace(
        evil, id="evil", tenant=EVIL, tags={EVIL: EVIL}, legs=legs, trace_id=TRACE, span_id="b" * 16
    )
    span = Span(TRACE, "c" * 16, "", EVIL, EVIL, "server", evil.started_ns - 10**9, evil.e2e_ns + 10**9)
    return kept(scene, folder, [span])


def kept(scene: Scene, folder: Path, spans: Sequence[Span] = ()) -> Path:
    """The folder, with a ledger of all that."""
    settings = LedgerSettings(path=str(folder))
    ledger = open_ledger(settings, is_writing=True, cost=CostSettings(), objectives=ObjectiveSettings())
    ledger.take_in(scene.frames, spans)
    ledger.close()
    return folder


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TOKENWORKS_LEDGER_PATH", str(folder))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_explain_draws_in_80_columns_and_nothing_breaks_the_terminal() -> None:
    result = invoke("explain", "evil")
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert not {"\x1b", "\u202e", "\r"} & set(result.output)
    assert "\\x1b[31mred[bold]\\u202e" in result.output
    for part in ("went to", "stages of", "workers", "the application around it", "cost", "decode", "first token"):
        assert part in result.output


def test_explain_finds_a_request_without_its_id() -> None:
    assert "evil" in invoke("explain", "--last").output
    told = json.loads(invoke("explain", "--slowest", "2", "--json").output)
    assert sum(line["ns"] for line in told["stages"]) == told["e2e_ns"]


def test_explain_finds_what_did_not_end_well_and_says_what_there_is() -> None:
    assert (
        "none of the 100 requests of this window ended as 'failed'. They ended as: ok (100)"
        in invoke("explain", "--last", "--outcome", "failed").output
    )
    assert json.loads(invoke("explain", "--slowest", "--outcome", "ok", "--json").output)["outcome"] == "ok"
    wrong = invoke("explain", "evil", "--outcome", "ok")
    assert wrong.exit_code != 0
    assert "--outcome goes with --last or --slowest" in wrong.output


def test_diagnose_draws_what_it_found_and_what_it_looked_at() -> None:
    result = invoke("diagnose", *WINDOW)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    for part in ("warning  slow_client", "seen", "cause", "do", "gain", "evidence", "40 requests, 20"):
        assert part in result.output


def test_diagnose_tells_when_nothing_is_wrong() -> None:
    usual = ("--since", str(BEFORE.start_ns // 10**9), "--until", str(BEFORE.end_ns // 10**9))
    assert "Nothing found." in invoke("diagnose", *usual).output


def test_diagnose_as_json_holds_windows_and_findings() -> None:
    told = json.loads(invoke("diagnose", *WINDOW, "--json").output)
    assert told["requests"] == 40
    assert [finding["rule"] for finding in told["findings"]] == ["slow_client"]
    assert told["findings"][0]["gain_value"] == pytest.approx(0.4, rel=0.1)


def test_diagnose_of_a_run_without_a_past_tells_what_it_was_compared_with() -> None:
    since = str(BEFORE.start_ns // 10**9)
    text = " ".join(invoke("diagnose", "--since", since, *WINDOW[2:]).output.split())
    assert re.search(r"compared with [-\d]+ [:\d]+ to [-\d]+ [:\d]+ of the same run, its best stretch; ", text)
    told = json.loads(invoke("diagnose", "--since", since, *WINDOW[2:], "--json").output)
    assert told["is_own_baseline"]
    assert "of the same run" not in invoke("diagnose", *WINDOW).output


def test_diagnose_names_the_tenants_that_a_finding_hurts(tmp_path: Path) -> None:
    scene = Scene().usual(BEFORE, 60, tenant=EVIL).requests(NOW, 60, {Stage.DECODE: 1200}, tenant=EVIL)
    path = str(kept(scene, tmp_path))
    text = " ".join(invoke("diagnose", *WINDOW, "--ledger-path", path).output.split())
    assert "\x1b" not in text
    assert "\\n" not in text.replace(EVIL_SHOWN, "")
    assert re.search(r"hurts \S*red\S*, 60 requests: 3\d\.\d ms \(10\.\d ms before\): P99 of mean seconds", text), text
    told = json.loads(invoke("diagnose", *WINDOW, "--ledger-path", path, "--json").output)
    hurts = {finding["rule"]: finding["hurt"] for finding in told["findings"]}
    assert [(each["name"], each["requests"]) for each in hurts["slowed_down"]] == [("tpot_p99_s", 60)]
    assert [each["name"] for each in hurts["cost_by_speed"]] == ["cost_per_mtoken"]


def test_a_baseline_can_be_chosen() -> None:
    baseline = f"{NOW.start_ns // 10**9}..{NOW.end_ns // 10**9}"
    told = json.loads(invoke("diagnose", *WINDOW, "--baseline", baseline, "--json").output)
    assert told["baseline"] == [NOW.start_ns, NOW.end_ns]


def test_what_happened_is_drawn(tmp_path: Path) -> None:
    scene = Scene().usual(BEFORE, 60).usual(NOW, 80).incident("worker_joined", "w1", 30)
    scene.frames.append(Incident(NOW.end_ns - 1, "worker_lost", EVIL, "exited (was killed by signal 9)"))
    scene.usual(Window(NOW.start_ns + 240 * 10**9, NOW.start_ns + 300 * 10**9), 40, outcome="no_worker", worker="")
    shown = invoke("diagnose", *WINDOW, "--ledger-path", str(kept(scene, tmp_path))).output
    assert "what happened, the latest 20 of 31" in shown
    assert f"worker_lost {EVIL_SHOWN}: exited (was killed by signal 9)" in re.sub(r"\s+", " ", shown)
    assert re.search(r"when +worst from ", shown)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["explain"], 2, "give one of REQUEST_ID, --last and --slowest"),
        (["explain", "evil", "--last"], 2, "give one of REQUEST_ID, --last and --slowest"),
        (["explain", "evil", "--since", "1h"], 2, "--since goes with --last or --slowest"),
        (["explain", "nobody'; DROP TABLE records; --"], 1, "no record of"),
        (["explain", "--last", "--since", "1m"], 1, "no single records"),
        (["explain", "--last", "--since", "yesterday-ish"], 2, "`since` cannot be 'yesterday-ish'"),
        (["diagnose", "--since", "now", "--until", "1h"], 2, "is empty"),
        (["diagnose", "--baseline", "1h"], 2, "--baseline cannot be '1h'; give START..END"),
        (["diagnose", "--rules", "none.toml"], 2, "cannot read the rules in none.toml"),
        (["diagnose", "--ledger-path", "/nowhere/at/all"], 1, "no ledger"),
        (["diagnose", "--ledger-path", "off"], 1, "ledger"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], code: int, said: str) -> None:
    result = invoke(*arguments)
    assert said in result.output
    assert "Traceback" not in result.output
    assert result.exit_code == code
