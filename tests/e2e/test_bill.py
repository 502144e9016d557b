"""A real run, from requests to the bill: it adds up, each nanosecond of a step is in a record, and `usage` agrees."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Served

pytestmark = pytest.mark.slow

Answer = dict[str, Any]
ASKED: Answer = {"model": "embedded", "messages": [{"role": "user", "content": "What is a context manager?"}]}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Served]) -> Counter[str]:
    """A run that is over: what the answers' `usage` said that it cost, by key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENWORKS_LEDGER_PATH", str(tmp_path_factory.mktemp("ledger")))
        patch.setenv("TOKENWORKS_COST_CURRENCY", "EUR")
        system = serve("--price-per-hour", "3.6", "--watts", "50", "--workers", "1")
    costs: Counter[str] = Counter()
    with system.openai() as client:
        for number, tier in enumerate(["default", "flex", "priority"] * 2):
            key = f"key-{number % 2}"
            answer = client.with_options(api_key=key).chat.completions.create(
                **ASKED,
                max_tokens=60,
                service_tier=tier,
                metadata={"part": str(number)},
                extra_body={"usage": {"include": True}},
            )
            assert answer.usage is not None
            assert answer.usage.model_extra is not None
            costs[key] += answer.usage.model_extra["cost"]
        stream = client.chat.completions.create(**ASKED, max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()  # work for nobody
    system.process.send_signal(signal.SIGTERM)
    assert system.process.wait(120) == 0, system.log.read_text()
    return costs


@pytest.fixture(scope="module")
def table(told: Counter[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Answer]:
    """Asks from a folder in which nothing is known of the run but where its ledger is."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    [folder] = [path.parent for path in Path(tmp_path_factory.getbasetemp()).glob("ledger*/ledger.sqlite")][-1:]

    def ask(*arguments: str) -> Answer:
        command = [sys.executable, "-m", "tokenworks", "table", "--ledger-path", str(folder), "--json", *arguments]
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    return ask


def test_the_bill_of_a_run_adds_up_to_its_workers_time(table: Callable[..., Answer]) -> None:
    bill = table()["bill"]
    lines = Counter[str]()
    for line in bill["lines"]:
        lines[line["kind"]] += line["pico"]
    assert sum(lines.values()) == bill["total_pico"] > 0
    assert lines["unrecorded"] == 0
    assert abs(lines["rounding"]) < 100
    assert min(lines["tenant"], lines["failed"], lines["idle"]) > 0
    assert bill["currency"] == "EUR"


def test_what_usage_told_each_tenant_is_its_line_of_the_bill(told: Counter[str], table: Callable[..., Answer]) -> None:
    lines = [line["amount"] for line in table()["bill"]["lines"] if line["kind"] == "tenant"]
    assert sorted(lines) == pytest.approx(sorted(told.values()), rel=1e-9)


def test_the_table_of_a_run_has_a_figure_in_every_column_that_applies(table: Callable[..., Answer]) -> None:
    found = table("--preset", "all", "--by", "scenario")
    assert [row["scenario"] for row in found["rows"]] == ["online", "offline", "realtime"]
    total = found["total"]
    assert (total["requests"], total["gone_rate"]) == (7, pytest.approx(1 / 7))
    assert total["success_rate"] == pytest.approx(6 / 7)
    unknown = {key for key, value in total.items() if value is None}
    assert unknown <= {"draft_hit_rate"}
    assert 0 < total["ttft_p50"] < total["e2e_p50"]
    assert 0 < total["busy"] < 1
    assert total["mfu"] > 0
    assert total["mbu"] > 0
    assert sum(total[key] for key in total if key.startswith("stage_")) == pytest.approx(1)
    assert total["joules_per_token"] > 0
