"""`tokenworks bench` from end to end against a server on loopback: output, files and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tokenworks.bench.command import bench

SRC = Path(__file__).parents[2] / "src"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, list(arguments), catch_exceptions=False)


def report_of(result: Result) -> dict[str, Any]:
    """The JSON line that ends stdout."""
    fields: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return fields


def test_an_open_loop_run_ends_with_a_table_and_a_json_line(server: Any) -> None:
    result = run(
        server.url, "--rate", "200", "--requests", "20", "--output-tokens", "uniform:2:5", "--slo-ttft-ms", "9e6"
    )
    fields = report_of(result)
    assert result.exit_code == 0
    assert "TTFT" in result.stdout
    assert (fields["ok"], fields["sent"], fields["model"]) == (20, 20, "plain")
    assert fields["tokens"]["output"] == sum(body["max_tokens"] for body in server.bodies[1:])
    assert (fields["tokens"]["input"], fields["tokens"]["cached"]) == (20 * 512, 20 * 256)
    assert (fields["goodput"]["met"], fields["send_lag_s"]["count"]) == (20, 20)
    assert all(body["ignore_eos"] and body["stream_options"] == {"include_usage": True} for body in server.bodies)


def test_the_same_seed_sends_the_same_requests(server: Any) -> None:
    arguments = (server.url, "--concurrency", "1", "--requests", "4", "--input-tokens", "uniform:5:50", "--seed", "7")
    run(*arguments)
    run(*arguments)
    assert server.bodies[1:5] == server.bodies[6:10]


def test_a_closed_loop_run_is_bounded_by_count(server: Any) -> None:
    result = run(server.url, "--concurrency", "3", "--max-requests", "10", "--output-tokens", "2", "--endpoint", "chat")
    fields = report_of(result)
    assert (result.exit_code, fields["ok"], fields["goodput"]) == (0, 10, None)
    assert fields["peak_in_flight"] == 3
    assert fields["workload"]["prompts"] == "text"


def test_a_duration_alone_bounds_a_run(server: Any) -> None:
    fields = report_of(run(server.url, "--rate", "50", "--duration", "0.5", "--output-tokens", "1"))
    assert fields["workload"]["max_requests"] is None
    assert not fields["is_cut_short"]
    assert fields["ok"] == fields["sent"] > 0


def test_failures_and_rejections_are_told_apart_and_end_with_code_1(server: Any) -> None:
    result = run(server.url, "--model", "busy", "--concurrency", "1", "--requests", "8", "--output-tokens", "2")
    fields = report_of(result)
    assert (result.exit_code, fields["ok"], fields["failed"], fields["rejected"]) == (1, 5, 0, 3)
    assert fields["reasons"] == [
        {"outcome": "rejected", "code": "429 overloaded", "count": 3, "example": "queue is full"}
    ]
    failed = run(server.url, "--model", "error-event", "--requests", "2", "--output-tokens", "4")
    assert (failed.exit_code, report_of(failed)["failed"]) == (1, 2)


def test_on_a_terminal_there_is_the_page_and_no_json(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes stdout for a terminal
    monkeypatch.setenv("COLUMNS", "40")
    result = run(server.url, "--requests", "2", "--output-tokens", "2")
    assert "TTFT" in result.stdout
    assert '"schema"' not in result.stdout


def test_json_to_a_file_leaves_stdout_to_the_page(server: Any, tmp_path: Path) -> None:
    path, records = tmp_path / "report.json", tmp_path / "records.jsonl"
    result = run(server.url, "--requests", "3", "--output-tokens", "4", "--json", str(path), "--records", str(records))
    assert "{" not in result.stdout
    assert json.loads(path.read_text())["ok"] == 3
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2]
    assert all(len(line["itl_s"]) == 3 for line in lines)


def test_a_report_that_cannot_be_written_is_told_below_its_page(server: Any) -> None:
    path = f"/proc/{os.getpid()}/report.json"  # nobody can make a file there, root neither
    result = run(server.url, "--requests", "1", "--output-tokens", "2", "--json", path)
    assert result.exit_code == 1
    assert "TTFT" in result.stdout
    assert f"Could not open file '{path}'" in " ".join(result.stderr.split())


def test_json_to_a_dash_is_all_there_is_on_stdout(server: Any) -> None:
    result = run(server.url, "--requests", "2", "--output-tokens", "2", "--json", "-")
    assert json.loads(result.stdout)["ok"] == 2
    assert "TTFT" in result.stderr


def test_a_trace_replay_shares_the_prefixes_that_the_trace_shares(server: Any, tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1500, "output_length": 30, "hash_ids": [0, 1, 2]},
        {"timestamp": 0, "input_length": 1536, "output_length": 40, "hash_ids": [0, 1, 3]},
        {"timestamp": 100, "input_length": 700, "output_length": 5, "hash_ids": [0, 4]},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = report_of(run(server.url, "--trace", str(path), "--length-scale", "0.1", "--trace-speed", "2"))
    first, second, third = sorted(server.bodies[1:], key=lambda body: -len(body["prompt"]))
    assert [len(body["prompt"]) for body in (first, second, third)] == [154, 150, 70]
    assert [body["max_tokens"] for body in (first, second, third)] == [4, 3, 1]
    assert first["prompt"][:102] == second["prompt"][:102]  # two blocks of 51.2 tokens
    assert first["prompt"][102:110] != second["prompt"][102:110]
    assert first["prompt"][:51] == third["prompt"][:51]
    assert fields["workload"]["trace"]["length_scale"] == 0.1
    assert any("speed x2, lengths x0.1" in note for note in fields["notes"])


def test_a_server_without_token_ids_is_measured_with_text(server: Any) -> None:
    fields = report_of(run(server.url, "--model", "text-only", "--requests", "2", "--output-tokens", "2"))
    assert (fields["ok"], fields["workload"]["prompts"]) == (2, "text")
    assert any("refused token ids" in note for note in fields["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "1", "--concurrency", "1"], "exclude each other"),
        (["--endpoint", "chat", "--prompts", "ids"], "takes text only"),
        (["--length-scale", "0.5"], "give one with --trace"),
        (["--input-tokens", "some"], "uniform:64:256"),
        (["--extra-body", "[1]"], "not a JSON object"),
        (["--json", "/nowhere/at/all.json"], "its directory does not exist"),
        (["--model", "strict"], "--no-ignore-eos"),
        (["--model", "text-only", "--prompts", "ids"], "prompt must be text"),
        (["--trace", __file__], "fits no known trace"),
    ],
)
def test_wrong_usage_ends_with_code_2_and_says_what_to_do(server: Any, arguments: list[str], message: str) -> None:
    result = run(server.url, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_an_address_that_is_none_is_wrong_usage() -> None:
    assert run("localhost:1").exit_code == 2


def test_an_unreachable_server_ends_with_code_3() -> None:
    result = run("http://127.0.0.1:1")
    assert result.exit_code == 3
    assert "is the server running" in result.stderr


def test_ctrl_c_prints_what_has_been_measured(server: Any) -> None:
    code = "from tokenworks.bench.command import bench; bench()"
    arguments = [server.url, "--model", "stalled", "--concurrency", "2", "--output-tokens", "2", "--json", "-"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    )
    with process:
        wait_until_stalled(server, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    fields = json.loads(stdout)
    assert process.returncode == 130
    assert (fields["interrupted"], fields["abandoned"]) == (True, 2)
    assert (fields["ok"], fields["sent"]) == (3, 5)  # the probe and three answers, then two that never come
    assert "Interrupted" in stderr


def wait_until_stalled(server: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while server.num_stalled < 2 and process.poll() is None:
        assert time.monotonic() < deadline, "it does not come so far"
        time.sleep(0.01)


def test_the_help_teaches_in_groups() -> None:
    text = run("--help").output
    for part in ("Examples:", "Load (", "Trace (", "Objectives (", "Server:", "Output:", "Exit code:"):
        assert part in text


def test_the_options_are_these_and_a_new_one_is_a_visible_change() -> None:
    options = [option.opts[0] for option in bench.params if isinstance(option, click.Option)]
    assert options == [
        *("--rate", "--concurrency", "--requests", "--duration", "--seed", "--input-tokens", "--output-tokens"),
        *("--ignore-eos", "--prompts", "--token-ids", "--temperature", "--extra-body", "--trace", "--trace-speed"),
        *("--length-scale", "--rate-scale", "--slo-ttft-ms", "--slo-tpot-ms", "--slo-itl-ms", "--slo-e2e-ms"),
        *("--model", "--endpoint", "--api-key", "--timeout", "--json", "--records", "-h"),
    ]
