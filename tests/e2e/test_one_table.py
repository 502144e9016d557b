"""One run, seen from everywhere: three scenarios, three tenants and a killed worker give the same figures wherever they
are shown, and a bill that adds up.

The ledger itself, `tokenworks table`, the page's JSON and Prometheus are four ways to the same records; what they say
must be equal, not alike.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from click.testing import CliRunner
from openai import BadRequestError, OpenAI

from tokenworks.cli.main import main
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.record import PICO
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Window
from tokenworks.observe.store.open import open_ledger

if TYPE_CHECKING:
    from tests.e2e.conftest import Served

pytestmark = pytest.mark.slow

TENANTS = ("acme", "b'; drop table records; --", "<b>corp</b>")
SCENARIOS = {"online": "default", "offline": "flex", "realtime": "priority"}
ROUNDS = 3  # of every tenant's every scenario
MALFORMED = 2
REQUESTS = ROUNDS * len(TENANTS) * len(SCENARIOS) + MALFORMED
BUILT_FROM_REQUESTS = (
    "requests",
    "success_rate",
    "kept_rate",
    "ttft_p99",
    "tpot_p50",
    "itl_p99",
    "e2e_p99",
    "hit_rate",
)
COLUMNS = (*BUILT_FROM_REQUESTS, "input_tokens", "output_tokens", "cost", "full_cost", "goodput", "migrations")


class Run(NamedTuple):
    """A run that is over."""

    served: Served
    folder: Path
    since: str
    until: str
    window: Window

    @cache  # noqa: B019 (a run is over, and few are asked)
    def table(self, by: str) -> dict[str, Any]:
        """As the command line has it."""
        window = ["--since", self.since, "--until", self.until]
        return dict(json.loads(command("table", "--json", "--by", by, *window, "--columns", ",".join(COLUMNS))))

    def page(self, by: str) -> dict[str, Any]:
        """As the dashboard has it."""
        question = {"by": by, "since": self.since, "until": self.until, "columns": ",".join(COLUMNS)}
        return dict(
            httpx.get(f"{self.served.url}/observe/table", params=question, timeout=60).raise_for_status().json()
        )

    def cells(self, by: str | None) -> dict[str, Cell]:
        """As they are kept."""
        return open_ledger(LedgerSettings(path=str(self.folder))).cells(self.window, by)


def command(*arguments: str) -> str:
    """What it says."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def key_of(tenant: str) -> str:
    return command("key", "add", tenant).strip()


def ask(served: Served, key: str, tier: str, number: int) -> None:
    with OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        stream = client.completions.create(
            model="embedded",
            prompt=f"Number {number}: what a dictionary is, and what it is for in a program",
            max_tokens=40,
            stream=True,
            extra_body={"ignore_eos": True, "service_tier": tier, "metadata": {"feature": f"f{number % 2}"}},
        )
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


def drive(served: Served, keys: dict[str, str]) -> None:
    """The mixed traffic; a worker dies in its middle."""
    victim, *_ = served.worker_pids()
    jobs = [(key, tier) for _ in range(ROUNDS) for key in keys.values() for tier in SCENARIOS.values()]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, served, key, tier, number) for number, (key, tier) in enumerate(jobs)]
        asked[len(asked) // 3].result()
        os.kill(victim, signal.SIGKILL)
        for each in asked:
            each.result()
    with OpenAI(base_url=f"{served.url}/v1", api_key=keys["acme"], max_retries=0) as client:
        for _ in range(MALFORMED):
            with pytest.raises(BadRequestError):
                client.completions.create(model="embedded", prompt="x", temperature=9)


def has_told(folder: Path, at_ns: int) -> bool:
    """Whether both workers have been sampled after that time, and the ledger has it."""
    stretches = open_ledger(LedgerSettings(path=str(folder))).workers(Window(at_ns - 10**10, time.time_ns()))
    return {"w0", "w1"} <= {stretch.worker for stretch in stretches if stretch.until_ns > at_ns}


@pytest.fixture(scope="module")
def run(serve: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory, wait_for: Any) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ledger")
        patch.setenv("TOKENWORKS_LEDGER_PATH", str(folder))
        served = serve("--workers", "2", "--price-per-hour", "3.6", "--watts", "50")
        start_ns = time.time_ns() - 10**9
        wait_for(lambda: served.metric("tokenworks_workers_ready") == 2, "both workers")
        drive(served, {tenant: key_of(tenant) for tenant in TENANTS})
        wait_for(lambda: served.metric("tokenworks_worker_running") == 0, "the workers to be idle")
        idle_ns = time.time_ns()
        wait_for(lambda: has_told(folder, idle_ns), "the time of both workers until they were idle")
        end_ns = time.time_ns()
        wait_for(lambda: has_told(folder, end_ns), "everything of the window: frames come in order")
        since, until = (datetime.fromtimestamp(ns / 1e9, UTC).isoformat() for ns in (start_ns, end_ns))
        found = Run(served, folder, since, until, Window(start_ns // 1000 * 1000, end_ns // 1000 * 1000))
        wait_for(lambda: sum(cell.requests for cell in found.cells(None).values()) == REQUESTS, "all records")
        yield found


@pytest.mark.parametrize("by", ["scenario", "tenant", "worker", "tag:feature"])
def test_the_command_line_and_the_page_say_the_same(run: Run, by: str) -> None:
    table, page = run.table(by), run.page(by)
    assert len(table["rows"]) >= 2
    assert table["rows"] == page["rows"]
    assert table["bill"]["lines"] == page["bill"]["lines"]


@pytest.mark.parametrize("by", ["scenario", "tenant"])
def test_they_say_what_the_ledger_holds(run: Run, by: str) -> None:
    cells = run.cells(by)
    rows = {row[by]: row for row in run.table(by)["rows"]}
    assert rows.keys() == cells.keys()
    for key, cell in cells.items():
        row = rows[key]
        assert (row["requests"], row["input_tokens"], row["output_tokens"], row["migrations"]) == (
            cell.requests,
            cell.prompt_tokens,
            cell.output_tokens,
            cell.migrations,
        )
        assert row["cost"] == pytest.approx(cell.cost / PICO, rel=1e-12)
        assert row["ttft_p99"] == pytest.approx(cell.sketch("ttft").quantile(0.99) / 1e9)


def test_prometheus_counts_what_the_ledger_holds(run: Run) -> None:
    for scenario, cell in run.cells("scenario").items():
        labels = {"scenario": scenario}
        assert run.served.metric("tokenworks_records_total", **labels) == cell.requests
        assert run.served.metric("tokenworks_tokens_total", kind="output", **labels) == cell.output_tokens
        assert run.served.metric("tokenworks_tokens_total", kind="prompt", **labels) == cell.prompt_tokens
        assert run.served.metric("tokenworks_cost_total", **labels) == pytest.approx(cell.cost / PICO, rel=1e-9)
        stages_s = run.served.metric("tokenworks_stage_seconds_total", **labels)
        assert stages_s == pytest.approx(sum(cell.stages_ns.values()) / 1e9)
        assert stages_s == pytest.approx(cell.e2e_ns / 1e9, rel=0.01)


def test_nobody_is_forgotten_and_names_are_only_names(run: Run) -> None:
    cells = run.cells("tenant")
    assert set(cells) == set(TENANTS)
    assert Counter({tenant: cell.ok for tenant, cell in cells.items()}) == Counter(dict.fromkeys(TENANTS, 9))


def test_the_bill_adds_up_to_the_last_pico(run: Run) -> None:
    bill = run.table("tenant")["bill"]
    assert sum(line["pico"] for line in bill["lines"]) == bill["total_pico"]
    amounts = {(line["kind"], line["name"]): line["pico"] for line in bill["lines"]}
    for tenant, cell in run.cells("tenant").items():
        assert amounts["tenant", tenant] + amounts.get(("failed", tenant), 0) == pytest.approx(cell.cost, rel=1e-9)
    lived_s = (
        sum(stretch.use.wall_ns for stretch in open_ledger(LedgerSettings(path=str(run.folder))).workers(run.window))
        / 1e9
    )
    assert bill["total"] == pytest.approx(lived_s * 3.6 / 3600, rel=1e-6)


def test_the_killed_worker_can_be_read_off(run: Run) -> None:
    [cell] = run.cells(None).values()
    assert cell.ok == REQUESTS - MALFORMED
    assert cell.migrations > 0
    kinds = [incident.kind for incident in open_ledger(LedgerSettings(path=str(run.folder))).incidents(run.window)]
    assert "worker_lost" in kinds
    assert not math.isnan(cell.sketch("itl").quantile(0.99))
