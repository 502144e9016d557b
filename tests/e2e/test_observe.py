"""What a running system shows of itself: one figure is one figure, wherever it is looked at."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from tests.e2e.conftest import Served
from tests.gateway.browser import chromium
from tokenworks.cli.main import main

pytestmark = pytest.mark.slow

TENANT = "<b>acme</b>"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ROOT = "00f067aa0ba902b7"
NUM_REQUESTS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


def command(folder: Path, *arguments: str) -> str:
    """What a command says."""
    done = CliRunner().invoke(main, [*arguments, "--ledger-path", str(folder)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def observed(
    serve: Callable[..., Served], folder: Path, wait_for: Callable[[Callable[[], object], str], None]
) -> Served:
    """A system that has served three scenarios, two tenants and one mistake, all of it in the ledger."""
    served = serve("--ledger-path", str(folder), "--price-per-hour", "0.5", "--kv-host-bytes", "64MiB")
    key = next(word for word in command(folder, "key", "add", TENANT).split() if word.startswith("tw-"))
    with httpx.Client(base_url=served.url, timeout=60) as http:
        for number in range(NUM_REQUESTS):
            body = {"prompt": f"Once {number}", "max_tokens": 8, "metadata": {"feature": "<i>search</i>"}}
            body["service_tier"] = ("default", "flex", "priority")[number % 3]
            headers = {"traceparent": f"00-{TRACE}-{ROOT}-01"} if number == 0 else {}
            headers |= {"authorization": f"Bearer {key}"} if number % 2 else {}
            assert http.post("/v1/completions", json=body, headers=headers).status_code == 200
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": -1}).status_code == 400

        def is_recorded() -> bool:
            answer = http.get("/observe/table?by=all&columns=requests")
            return answer.status_code == 200 and answer.json()["total"]["requests"] > NUM_REQUESTS

        wait_for(is_recorded, "the records of all requests in the ledger")
        wait_for(lambda: http.get("/observe/workers").json()["workers"], "a worker's sample")
        wait_for(lambda: http.get("/observe/cost").json()["total_pico"], "its second one, which a bill takes")
    return served


def closed_window() -> dict[str, str]:
    """An hour that is over: nothing is added to it while it is looked at."""
    return {"since": str(round(time.time() - 3600)), "until": str(round(time.time()))}


def test_command_page_and_http_show_the_same_figures(observed: Served, folder: Path) -> None:
    time.sleep(1)  # what ended within this second is past, then
    window = closed_window()
    asked = httpx.get(f"{observed.url}/observe/table", params={**window, "by": "tenant"}, timeout=60).json()
    options = ("--since", window["since"], "--until", window["until"], "--by", "tenant")
    printed = json.loads(command(folder, "table", *options, "--json", "--cost-currency", "USD"))
    assert asked["rows"] == printed["rows"]
    assert asked["bill"] == printed["bill"]
    assert httpx.get(f"{observed.url}/observe/cost", params=window, timeout=60).json() == printed["bill"]
    assert {row["tenant"] for row in asked["rows"]} > {TENANT}
    assert sum(line["pico"] for line in asked["bill"]["lines"]) == asked["bill"]["total_pico"] > 0


def test_a_request_is_explained_with_the_application_around_it(
    observed: Served, wait_for: Callable[[Callable[[], object], str], None]
) -> None:
    span = {
        "traceId": TRACE,
        "spanId": ROOT,
        "name": "answer <b>a question</b>",
        "kind": 2,
        "startTimeUnixNano": str(time.time_ns() - 60 * 10**9),
        "endTimeUnixNano": str(time.time_ns()),
    }
    service = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    body = {"resourceSpans": [{"resource": service, "scopeSpans": [{"spans": [span]}]}]}
    assert httpx.post(f"{observed.url}/v1/traces", json=body, timeout=60).status_code == 200

    def told() -> Any:
        return httpx.get(f"{observed.url}/observe/explain/{TRACE}", timeout=60).json()

    wait_for(lambda: told().get("spans"), "the span in the ledger")
    explanation = told()
    assert sum(line["ns"] for line in explanation["stages"]) == pytest.approx(explanation["e2e_ns"], rel=0.01)
    assert [line["name"] for line in explanation["spans"] if line["service"] == "shop"] == ["answer <b>a question</b>"]


def test_every_question_is_answered(observed: Served) -> None:
    for question in ("status", "series", "requests", "workers", "tiers", "diagnose", "drift", "chains"):
        answer = httpx.get(f"{observed.url}/observe/{question}", timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["window"]


def test_chromium_shows_what_was_served(observed: Served) -> None:
    with chromium() as browser:
        browser.open(f"{observed.url}/dashboard?by=tenant")
        browser.wait(lambda: TENANT in browser.text("#rows"), "the tenant")
        browser.wait(lambda: browser.all("#worker-cards article"), "the worker")
        browser.wait(lambda: browser.all("#tier-cards article"), "the store")
        assert browser.text("#tiles [data-figure=requests]") == str(NUM_REQUESTS + 1)
        browser.js("document.querySelector('#request-rows button.link').click()")
        browser.wait(lambda: browser.all("#explain-body .fall"), "the waterfall")
        assert browser.complaints() == []
