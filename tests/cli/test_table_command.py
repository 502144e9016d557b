"""`tokenworks table` as people and scripts meet it, over a real ledger."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.observe.tables.test_table import SETTINGS, WINDOW, mixed_frames
from tokenworks.cli.main import main
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.record import Frame, Gap, Incident, Record
from tokenworks.contract.request import Scenario
from tokenworks.observe.store import open_ledger
from tokenworks.observe.tables.columns import COLUMNS

SECOND_NS = 10**9
ALL = ("--since", "2026-03-01T10:00:00Z", "--until", "2026-03-01T10:10:00Z")
HOSTILE = '[red]x[/]\x1b[2J<b>"=1'


def write_ledger(folder: Path, frames: list[Frame]) -> Path:
    at = LedgerSettings(path=str(folder))
    with closing(open_ledger(at, is_writing=True, cost=SETTINGS.cost, objectives=SETTINGS.objectives)) as ledger:
        ledger.take_in(frames)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with ten mixed minutes, a hostile tenant and a gap."""
    at_ns = WINDOW.start_ns + SECOND_NS
    hostile = Record("h", at_ns - 5, 5, HOSTILE, "m", Scenario.ONLINE, "ok", 200, tags={"user": "=cmd|' /C calc'!A0"})
    gap = Gap(at_ns, at_ns + SECOND_NS, 12, "disk full")
    return write_ledger(tmp_path_factory.mktemp("ledger"), [*mixed_frames(), hostile, gap])


def ask(folder: Path, *arguments: str, width: int = 100) -> Result:
    environment = {"COLUMNS": str(width), "TOKENWORKS_LEDGER_PATH": str(folder)}
    return CliRunner().invoke(main, ["table", *arguments], env=environment)


def answer(folder: Path, *arguments: str) -> Any:
    result = ask(folder, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_json_has_a_row_for_each_scenario_and_a_bill_that_adds_up(mixed: Path) -> None:
    found = answer(mixed, *ALL)
    assert [row["scenario"] for row in found["rows"]] == ["online", "offline", "realtime"]
    assert sum(row["requests"] for row in found["rows"]) == found["total"]["requests"] == 301
    bill = found["bill"]
    assert sum(line["pico"] for line in bill["lines"]) == bill["total_pico"]
    assert bill["total"] == pytest.approx(2 * 1.5 / 6 + 2 * 200 * 600 / 3.6e6 * 0.0)
    assert found["gaps"][0]["reason"] == "disk full"


@pytest.mark.parametrize("by", ["tenant", "model", "version", "worker", "tag:user"])
def test_rows_by_anything_have_its_name_first(mixed: Path, by: str) -> None:
    row = answer(mixed, *ALL, "--by", by)["rows"][0]
    assert next(iter(row)) == by


def test_csv_is_the_json_rows(mixed: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ask(mixed, *ALL, "--by", "tenant", "--csv").stdout)))
    found = answer(mixed, *ALL, "--by", "tenant")["rows"]
    assert [row["tenant"] for row in rows] == [row["tenant"] for row in found]
    assert [float(row["cost"]) for row in rows] == [row["cost"] for row in found]
    assert [row["ttft_p99"] for row in rows if row["tenant"].startswith("[red]x")] == [""]
    assert {row["requests"].isdigit() for row in rows} == {True}


def test_a_name_that_a_spreadsheet_would_compute_is_text_in_csv(mixed: Path) -> None:
    told = [ask(mixed, *ALL, "--by", "tag:user", *form, "--csv").stdout for form in ((), ("--every", "10m"))]
    names = [{row["tag:user"] for row in csv.DictReader(io.StringIO(text))} for text in told]
    assert [{name for name in each if "cmd" in name} for each in names] == [{"'=cmd|' /C calc'!A0"}] * 2
    assert [{"u0", "u1"} < each for each in names] == [True, True]
    assert "=cmd|' /C calc'!A0" in [row["tag:user"] for row in answer(mixed, *ALL, "--by", "tag:user")["rows"]]


def test_over_time_rows_are_steps_that_sum_to_the_table(mixed: Path) -> None:
    found = answer(mixed, *ALL, "--every", "1m", "--columns", "requests,ttft_p99")
    assert (len(found["rows"]), found["step_s"]) == (10, 60)
    assert [*found["rows"][0]] == ["from_ns", "until_ns", "note", "requests", "ttft_p99"]
    assert sum(row["requests"] for row in found["rows"]) == found["total"]["requests"] == 301
    assert found["bill"]["total_pico"] == answer(mixed, *ALL)["bill"]["total_pico"]
    rows = list(csv.DictReader(io.StringIO(ask(mixed, *ALL, "--every", "1m", "--by", "tenant", "--csv").stdout)))
    assert rows[0]["from"] == "2026-03-01T10:00:00Z"
    assert len(rows) == 10 * len({row["tenant"] for row in rows}) == 40
    assert {row["note"] for row in rows if row["tenant"] == HOSTILE} == {"", "no requests"}


@pytest.mark.parametrize("width", [80, 160])
def test_a_page_over_time_has_a_line_for_each_step_and_one_for_each_stretch_without_any(
    mixed: Path, width: int
) -> None:
    asked = ("--every", "1m", "--where", f"tenant={HOSTILE}", "--columns", "requests,e2e_p50,cost")
    output = ask(mixed, *ALL, *asked, width=width).output
    assert len(re.findall(r"^ *\d\d:00:00 +1 ", output, re.MULTILINE)) == 1, output
    assert len(re.findall(r"no requests for 9 min", output)) == 1, output
    assert re.search(r"^ *all +1 ", output, re.MULTILINE)
    assert "every 60 s" in " ".join(output.split())
    by_tenant = ask(mixed, *ALL, "--every", "auto", "--by", "tenant", width=width)
    assert by_tenant.exit_code == 0, by_tenant.output
    assert max(map(len, by_tenant.output.splitlines())) <= width
    assert "tenant acme" in by_tenant.output


def test_the_bill_says_which_stage_the_device_time_went_to(mixed: Path) -> None:
    bill = answer(mixed, *ALL)["bill"]
    told = re.findall(r"of that, requests' device time: (\w+) +([\d.]+)", ask(mixed, *ALL, width=160).output)
    assert {work: float(amount) for work, amount in told} == pytest.approx(bill["by_work"], abs=0.001)
    assert len(told) > 1


def test_a_comparison_says_which_side_has_nothing(mixed: Path) -> None:
    output = ask(mixed, *ALL, "--against", "before", width=160).output
    assert re.search(r"^ before: No request ended in this window\.", output, re.MULTILINE), output
    assert "verdict" in output


def test_chosen_columns_and_filters_are_all_there_is(mixed: Path) -> None:
    rows = answer(mixed, *ALL, "--by", "all", "--columns", "requests, mfu", "--where", "version=new")["rows"]
    assert [list(row) for row in rows] == [["requests", "mfu"]]
    assert 0 < rows[0]["requests"] < 301


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize(
    "asked", [(), ("--by", "tenant"), ("--by", "all"), ("--preset", "all"), ("--against", "before")]
)
def test_the_page_keeps_within_its_width(mixed: Path, width: int, asked: tuple[str, ...]) -> None:
    result = ask(mixed, *ALL, *asked, width=width)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= width
    assert "…" not in result.output


def test_the_page_says_what_is_missing(mixed: Path) -> None:
    text = " ".join(ask(mixed, *ALL, width=200).output.split())
    assert "records are missing between" in text
    assert "(12 frames): disk full" in text


def test_the_page_shows_bad_ends_that_there_were_without_being_asked(mixed: Path) -> None:
    for asked in ((), ("--preset", "online"), ("--every", "5m")):
        assert {"rejected", "timeouts", "failed"} <= set(ask(mixed, *ALL, *asked, width=200).output.split())
    assert "rejected" not in ask(mixed, *ALL, "--columns", "requests,success_rate").output
    assert "rejection_rate" not in answer(mixed, *ALL)["rows"][0]


def test_the_page_shows_no_bad_ends_where_all_ended_well(tmp_path: Path) -> None:
    at_ns = WINDOW.start_ns + SECOND_NS
    fine = Record("f", at_ns, SECOND_NS, "anna", "m", Scenario.ONLINE, "ok", 200)
    shown = ask(write_ledger(tmp_path, [fine]), *ALL).output
    assert "success" in shown
    assert not {"rejected", "timeouts", "failed"} & set(shown.split())


@pytest.mark.parametrize("more", [(), ("--every", "5m")], ids=["whole", "over time"])
def test_requests_that_no_worker_had_are_called_so(mixed: Path, more: tuple[str, ...]) -> None:
    shown = ask(mixed, *ALL, "--by", "worker", *more, width=200).output
    assert "no worker" in shown
    assert "(none)" not in shown
    assert "worker no worker" not in shown


def test_a_tenants_name_stays_text(mixed: Path) -> None:
    output = ask(mixed, *ALL, "--by", "tenant", width=160).output
    assert re.search(r"\[red\]x\[/\]\\x1b\[2J<b>\"=1", output)
    assert "\x1b" not in output


def test_a_comparison_has_both_sides_and_a_verdict(mixed: Path) -> None:
    found = answer(mixed, *ALL, "--where", "version=new", "--against", "version=old", "--columns", "requests,e2e_p50")
    assert [row["column"] for row in found["rows"]] == ["requests", "e2e_p50"]
    assert found["rows"][0]["first"] + found["rows"][0]["second"] == 300
    assert found["rows"][1]["low"] < 1 < found["rows"][1]["high"]
    assert found["rows"][1]["verdict"] == "noise"


def test_a_comparison_with_nothing_says_what_there_is(mixed: Path) -> None:
    output = " ".join(ask(mixed, *ALL, "--where", "version=new", "--against", "version=3fe1").output.split())
    assert "No request of version 3fe1 ended in this window. There were requests of version" in output


def test_a_window_without_requests_says_where_they_are(mixed: Path) -> None:
    output = ask(mixed, "--since", "1m").output
    assert "No request ended in this window. There are records from" in output


def test_a_filter_that_nothing_matches_says_what_there_is(mixed: Path) -> None:
    output = " ".join(ask(mixed, *ALL, "--where", "tenant=nobody", "--where", "version=new").output.split())
    assert "No request of tenant nobody and version new ended in this window." in output
    assert re.search(r"There were requests of tenant .*acme.*; of version (new, old|old, new)", output)
    assert "--since" not in output
    by_tag = " ".join(ask(mixed, *ALL, "--where", "tag:user=nobody", "--every", "1m").output.split())
    assert "No request of tag:user nobody ended in this window. There were requests of tag:user u" in by_tag


def test_a_tag_is_filtered_by_and_followed_over_time(mixed: Path) -> None:
    tag = "=cmd|' /C calc'!A0"
    [row] = answer(mixed, *ALL, "--by", "tenant", "--where", f"tag:user={tag}", "--columns", "requests")["rows"]
    assert row == {"tenant": HOSTILE, "requests": 1}
    assert answer(mixed, *ALL, "--where", "tag:user=", "--columns", "requests")["total"] == {"requests": 0}
    steps = answer(mixed, *ALL, "--by", "tag:user", "--every", "1m", "--columns", "requests")["rows"]
    followed = {user: [step["requests"] for step in steps if step["tag:user"] == user] for user in ("u3", tag)}
    alone = answer(mixed, *ALL, "--where", "tag:user=u3", "--columns", "requests")["total"]["requests"]
    assert (len(followed["u3"]), sum(followed["u3"])) == (10, alone)
    assert followed[tag] == [1, *[0] * 9]


def test_columns_without_a_count_of_requests_can_be_shown(mixed: Path) -> None:
    output = ask(mixed, *ALL, "--columns", "e2e_p50,cost").output
    assert re.search(r"online +\d", output)


def test_an_empty_ledger_says_what_to_do(tmp_path: Path) -> None:
    write_ledger(tmp_path, [Incident(WINDOW.start_ns, "gateway_started", "g")])
    output = " ".join(ask(tmp_path).output.split())
    assert output.startswith("No request has been recorded in ")
    assert "Start `tokenworks serve`" in output
    assert answer(tmp_path)["rows"] == []


def test_no_ledger_at_all_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    result = ask(tmp_path / "none")
    assert result.exit_code == 1
    assert "tokenworks serve" in result.output


def test_workers_without_a_price_are_named_with_what_to_do(tmp_path: Path) -> None:
    from tests.observe.made import NOON_NS, record, worker_sample

    frames: list[Frame] = [record(), worker_sample(NOON_NS + SECOND_NS, SECOND_NS, 5, price_per_hour=None)]
    output = " ".join(ask(write_ledger(tmp_path, frames), "--since", "2025-11-22T11:00:00Z").output.split())
    assert "no price is stated for w0" in output
    assert "--price-per-hour" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--by", "colour"), "rows cannot be by 'colour'"),
        (("--since", "yesterday"), "`since` cannot be 'yesterday'"),
        (("--since", "now"), "must be before"),
        (("--where", "tenant"), "must be NAME=VALUE"),
        (("--where", "colour=red"), "`where` knows scenario"),
        (("--columns", "ttft_p98"), "the nearest one is 'ttft_p9"),
        (("--against", "soon"), "`against` cannot be 'soon'"),
        (("--json", "--csv"), "exclude each other"),
        (("--json", "--watch"), "exclude each other"),
        (("--csv", "--against", "before"), "a comparison has no CSV"),
        (("--every", "1m", "--against", "before"), "no --every"),
        (("--every", "90s"), "`every` cannot be '90s'"),
        (("--by", "tag"), "or tag:KEY"),
        (("--by", "tag:user", "--where", "tag:team=a"), "tag:team and tag:user cannot be asked for together"),
        (("--where", "tag:=a"), "and tag:KEY, and not 'tag:'"),
        (("--watch",), "needs a terminal"),
        (("--preset", "fast"), "'fast' is not one of"),
        (("--rows", "-1"), "-1 is not in the range"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(mixed: Path, arguments: tuple[str, ...], complaint: str) -> None:
    result = ask(mixed, *arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_all_columns_can_be_listed(tmp_path: Path) -> None:
    output = ask(tmp_path, "--columns", "help", width=200).output
    assert all(key in output for key in COLUMNS)


def test_watch_shows_what_has_come_in_until_it_is_interrupted(tmp_path: Path) -> None:
    now_ns = time.time_ns()
    first = Record("a", now_ns - SECOND_NS, 5, "early-bird", "m", Scenario.ONLINE, "ok", 200)
    write_ledger(tmp_path, [first])
    main_fd, terminal = pty.openpty()
    command = [sys.executable, "-m", "tokenworks", "table", "--by", "tenant", "--watch", "--ledger-path", str(tmp_path)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "50"}
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment, preexec_fn=heed_interrupts)
    os.close(terminal)
    try:
        wait_for(main_fd, b"early-bird")
        write_ledger(tmp_path, [Record("b", now_ns, 5, "latecomer", "m", Scenario.ONLINE, "ok", 200)])
        wait_for(main_fd, b"latecomer")
        process.send_signal(signal.SIGINT)
        wait_for(main_fd, b"\x1b[?1049l")  # the screen that was there before
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main_fd)


def heed_interrupts() -> None:
    """A shell that starts the tests in the background has them, and their children, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(fd: int, text: bytes, timeout_s: float = 60.0) -> None:
    seen, end_s = b"", time.monotonic() + timeout_s
    while text not in seen:
        ready, _, _ = select.select([fd], [], [], end_s - time.monotonic())
        assert ready, seen
        seen += os.read(fd, 65536)
