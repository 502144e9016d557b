"""The dashboard in a real Chromium: it shows what the observer answers, to everybody, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.gateway.browser import Browser, chromium
from tests.observe.asked import RunningApi
from tests.observe.made import SECOND_NS, record
from tests.observe.memory_ledger import MemoryLedger
from tests.observe.traffic import MARKUP, SCRIPT, TENANTS, mixed_traffic
from tokenworks.contract.config import LedgerSettings, Settings
from tokenworks.contract.errors import LedgerError
from tokenworks.contract.record import Gap, Stage
from tokenworks.observe.diagnose.rules import own_rules
from tokenworks.observe.journal.writer import JournalState
from tokenworks.observe.observer.figures import AlertFigure, Figures
from tokenworks.observe.units import figure

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Shown:
    """A gateway whose observer answers from a ledger in memory; it can be stopped and started."""

    def __init__(self, rig: Rig, settings: Settings, ledger: MemoryLedger) -> None:
        self.rig = rig
        self.ledger = ledger
        self.is_unreadable = False
        self.url = f"{rig.gateway.url}/dashboard"
        self._settings = settings
        self.api: RunningApi | None = None
        self.start()

    def start(self) -> None:
        self.api = RunningApi(self._settings, self._open)

    def _open(self) -> MemoryLedger:
        if self.is_unreadable:
            raise LedgerError("the disk is gone")
        return self.ledger

    def stop(self) -> None:
        if self.api is not None:
            self.api.close()
        self.api = None


@pytest.fixture(scope="module")
def show(running_rig: MakeRig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[MemoryLedger], Shown]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def begin(ledger: MemoryLedger) -> Shown:
            settings = LedgerSettings(path=str(tmp_path_factory.mktemp("ledger")))
            shown = Shown(stack.enter_context(running_rig(ledger=settings)), Settings(ledger=settings), ledger)
            stack.callback(shown.stop)
            return shown

        yield begin


@pytest.fixture(scope="module")
def shown(show: Callable[[MemoryLedger], Shown]) -> Shown:
    return show(MemoryLedger(mixed_traffic(time.time_ns(), 180)))


def is_drawn(browser: Browser) -> bool:
    """Whether every section has its answer."""
    filled = ("#tiles data", "#rows tbody tr", "#request-rows tbody tr", "#worker-cards article", "#bill data")
    later = (
        "#tier-cards article",
        "#verdict:not([data-state=unknown])",
        "#features > *",
        "#dependencies > *",
        "#incident-rows tbody tr",
        "#charts .path",
    )
    return all(browser.js("!!document.querySelector(arguments[0])", selector) for selector in (*filled, *later))


def test_it_loads_without_a_complaint_and_asks_nobody_else(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "all sections")
    assert browser.complaints() == []
    assert browser.hosts_asked() == {shown.url.split("/")[2]}


@pytest.mark.parametrize("by", ["scenario", "tenant", "worker"])
def test_its_figures_are_those_of_the_table(browser: Browser, shown: Shown, by: str) -> None:
    browser.open(f"{shown.url}?by={by}&preset=online")
    browser.wait(lambda: browser.all("#rows tbody tr"), "the table")
    asked = {"by": by, "preset": "online", "troubles": "yes"}
    answer = shown.rig.http.get("/observe/table", params=asked).json()
    rows = browser.js(
        "[...document.querySelectorAll('#rows tbody tr, #rows .sum')].map((row) => "
        "[row.querySelector('th').textContent,"
        "Object.fromEntries([...row.querySelectorAll('data')].map((e) => [e.dataset.figure, Number(e.value)]))])"
    )
    told = [
        [row[by], {key: value for key, value in row.items() if key != by and value is not None}]
        for row in (*answer["rows"], {by: "all"} | answer["total"])
    ]
    assert rows == told
    assert len(rows) > 2
    assert {"failure_rate"} < {*rows[0][1]}  # no preset has it, but there were such


@pytest.mark.parametrize("preset", ["overview", "offline"])
def test_its_figures_are_in_the_words_of_the_command(browser: Browser, shown: Shown, preset: str) -> None:
    browser.open(f"{shown.url}?by=worker&preset={preset}")
    browser.wait(lambda: browser.all("#rows tbody tr"), "the table")
    columns = shown.rig.http.get("/observe/table", params={"preset": preset, "troubles": "yes"}).json()["columns"]
    units = {column["key"]: column["unit"] for column in columns if column["unit"] != "currency"}
    told = browser.js(
        "[...document.querySelectorAll('#rows data')].map((e) => [e.dataset.figure, Number(e.value), e.textContent])"
    )
    compared = [(key, text, figure(value, units[key])) for key, value, text in told if key in units]
    assert [(key, text) for key, text, _ in compared] == [(key, said) for key, _, said in compared]
    assert len(compared) > 15


def test_a_tag_groups_the_table_too(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: browser.js("document.querySelectorAll('#tags option').length") == 3, "the tags")
    assert browser.js("[...document.querySelectorAll('#tags option')].map((each) => each.textContent)") == [
        "by tag",
        SCRIPT,
        "feature",
    ]
    browser.js("document.querySelector('#tags').value = 'tag:feature'")
    browser.js("document.querySelector('#tags').dispatchEvent(new Event('change'))")
    heads = "[...document.querySelectorAll('#rows tbody th')].map((each) => each.textContent)"
    browser.wait(lambda: browser.js(heads) == [MARKUP], "the tag's values")
    assert "by=tag%3Afeature" in browser.driver.current_url
    browser.driver.refresh()
    browser.wait(lambda: browser.js(heads) == [MARKUP], "the same after a reload")
    assert browser.js("document.querySelectorAll('#rows tbody th button').length") == 1
    browser.js("document.querySelector('#rows tbody th button').click()")
    browser.wait(lambda: browser.text("#filters") == f"tag:feature={MARKUP} ×", "the filter")
    browser.wait(lambda: browser.all("#rows .spark"), "it over time")
    browser.js("document.querySelector('#filters button').click()")
    assert browser.js("document.querySelector('#tags').value") == "tag:feature"
    browser.js("[...document.querySelectorAll('#by button')].find((each) => each.textContent === 'tenant').click()")
    browser.wait(lambda: {*browser.js(heads)} == {*TENANTS}, "the tenants")
    assert browser.js("document.querySelector('#tags').value") == ""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_column_is_shown_over_time(browser: Browser, shown: Shown, width: int, scheme: str) -> None:
    browser.open(f"{shown.url}?preset=online&where=tenant%3Dacme", width=width, scheme=scheme)
    browser.wait(lambda: browser.all("#rows .spark"), "the lines")
    assert not browser.one("#trends").is_displayed()
    browser.js("document.querySelector('[data-key=trends]').click()")
    browser.wait(lambda: browser.all("#trends .path"), "the small charts")
    assert "trends=yes" in browser.driver.current_url
    series = shown.rig.http.get("/observe/series?preset=online&where=tenant=acme&troubles=yes").json()
    titles = browser.js("[...document.querySelectorAll('#trends h3')].map((each) => each.textContent)")
    assert titles == [column["heading"] for column in series["columns"]]
    assert "TTFT P99" in titles
    browser.js("document.querySelector('#trends svg').focus()")
    press(browser, Keys.ARROW_LEFT)
    assert browser.text("#trends .when") != ""
    assert browser.all("#trends .cross")
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.poor_contrasts() == []


def test_the_bill_and_the_tiles_are_those_of_the_table(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "all sections")
    answer = shown.rig.http.get("/observe/table?by=all&columns=requests,success_rate,ttft_p99,full_cost").json()
    amounts = browser.js("[...document.querySelectorAll('#bill .amount data')].map((each) => Number(each.value))")
    assert amounts == [line["amount"] for line in answer["bill"]["lines"]]
    for key in ("requests", "success_rate", "ttft_p99"):
        assert browser.js(f"Number(document.querySelector('#tiles [data-figure={key}]').value)") == answer["total"][key]
    assert browser.text("#tiles [data-figure=requests]") == f"{answer['total']['requests']:,.0f}"


def test_hostile_names_stay_text(browser: Browser, shown: Shown) -> None:
    browser.open(f"{shown.url}?by=tenant")
    browser.wait(lambda: is_drawn(browser), "all sections")
    assert set(browser.js("[...document.querySelectorAll('#rows tbody th')].map((each) => each.textContent)")) == {
        *TENANTS
    }
    assert MARKUP in browser.text("#bill")
    assert SCRIPT in browser.text("#incident-rows")
    open_explanation(browser, "request-7")
    assert f"feature: {MARKUP}" in browser.text("#explain-body")
    assert f"{SCRIPT}: search" in browser.text("#explain-body")
    assert browser.js("document.querySelectorAll('#explain-body [data-kind=instant]').length") == 1  # the first token
    assert browser.js("document.querySelectorAll('main img, main script, dialog img, dialog script').length") == 0
    assert browser.driver.title.endswith("Tokenworks")
    assert browser.complaints() == []


def open_explanation(browser: Browser, request_id: str) -> None:
    """By the page's own function, as a click on the row does: the row may be drawn again at any moment."""
    browser.js(
        "[...document.querySelectorAll('#request-rows button.link')].find((each) => each.title === arguments[0])"
        "?.click() ?? document.querySelector('#request-rows button.link').click()",
        request_id,
    )
    browser.wait(lambda: browser.all("#explain-body .fall"), "the waterfall")


def test_a_filter_is_a_names_click_and_goes_again(browser: Browser, shown: Shown) -> None:
    browser.open(f"{shown.url}?by=tenant")
    browser.wait(lambda: len(browser.all("#rows tbody tr")) == len(TENANTS), "the tenants")
    browser.js("[...document.querySelectorAll('#rows tbody th button')].find((e) => e.textContent === 'acme').click()")
    browser.wait(lambda: len(browser.all("#rows tbody tr")) == 1, "one tenant")
    assert "where=tenant%3Dacme" in browser.driver.current_url
    said = "getComputedStyle(document.querySelector('#cost .note'), '::after').content"
    assert "of everything" in browser.js(said)  # a bill has no filter
    browser.js("document.querySelector('#filters button').click()")
    browser.wait(lambda: len(browser.all("#rows tbody tr")) == len(TENANTS), "all tenants")
    assert "of everything" not in browser.js(said)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, shown: Shown, scheme: str) -> None:
    browser.open(shown.url, scheme=scheme)
    browser.wait(lambda: is_drawn(browser), "all sections")
    assert browser.poor_contrasts() == []
    is_dark = browser.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((each) => each < 64)")
    assert is_dark == (scheme == "dark")


def test_the_switch_is_remembered(browser: Browser, shown: Shown) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    browser.open(shown.url, scheme="dark")
    dark = browser.js(background)
    browser.one("#theme").click()
    light = browser.js(background)
    assert light != dark
    browser.driver.refresh()
    assert browser.js(background) == light
    browser.one("#theme").click()
    assert browser.js(background) == dark


@pytest.mark.parametrize("is_explaining", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, shown: Shown, is_explaining: bool) -> None:
    browser.open(f"{shown.url}?by=tenant", width=390, height=844)
    browser.wait(lambda: is_drawn(browser), "all sections")
    if is_explaining:
        open_explanation(browser, "request-7")
        assert browser.js(
            "document.querySelector('#explain').scrollWidth <= document.querySelector('#explain').clientWidth"
        )
    assert browser.js("document.documentElement.scrollWidth") == 390


def test_the_keyboard_suffices(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "all sections")
    browser.one("#request-rows").click()
    close_explanation(browser)
    browser.js("document.querySelector('#request-rows').focus()")
    press(browser, Keys.TAB)
    focused = browser.js("document.activeElement.dataset.key")
    shown_id = browser.js("document.querySelector('#request-rows button.link').dataset.key")
    assert focused == shown_id
    drawn = browser.js("(window.polls = performance.getEntriesByType('resource').length)")
    browser.wait(
        lambda: browser.js("performance.getEntriesByType('resource').length") > drawn + 10, "another round of answers"
    )
    assert browser.js("document.activeElement.dataset.key") == focused  # though the rows were drawn again
    press(browser, Keys.ENTER)
    browser.wait(lambda: browser.all("#explain-body .fall"), "the waterfall")
    assert browser.js("document.querySelector('#explain').contains(document.activeElement)")
    press(browser, Keys.ESCAPE)
    assert not browser.js("document.querySelector('#explain').open")
    browser.wait(lambda: browser.js("document.activeElement.dataset.key") == focused, "the focus where it was")


def close_explanation(browser: Browser) -> None:
    browser.js("document.querySelector('#explain').close()")


def press(browser: Browser, key: str) -> None:
    """To whatever has the focus: an element that was asked for may have been drawn again before it is typed at."""
    ActionChains(browser.driver).send_keys(key).perform()


def test_arrows_walk_through_a_chart(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "all sections")
    browser.js("document.querySelector('#charts svg').focus()")
    before = browser.one("#charts svg").get_attribute("aria-label")
    assert before is not None
    assert "Time to first token: P50" in before
    press(browser, Keys.ARROW_LEFT)
    assert browser.text("#charts .when") != ""
    assert browser.all("#charts .cross")


def test_it_says_when_nobody_answers_and_goes_on_when_somebody_does(
    browser: Browser, show: Callable[[MemoryLedger], Shown]
) -> None:
    shown = show(MemoryLedger(mixed_traffic(time.time_ns(), 60)))
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "the first answers")
    shown.stop()
    browser.wait(lambda: browser.text("#live") == "no answer", "the first error")
    assert "the observer does not answer" in browser.text("#notices")
    assert "What is below is of" in browser.text("#notices")
    assert browser.all("main[data-stale]")
    shown.start()
    browser.wait(lambda: browser.text("#live") == "live" and is_drawn(browser), "answers again")
    assert "does not answer" not in browser.text("main")
    assert not browser.all("main[data-stale]")


def test_a_ledger_that_cannot_be_read_is_told_once_and_not_in_every_section(
    browser: Browser, show: Callable[[MemoryLedger], Shown]
) -> None:
    shown = show(MemoryLedger([record(number, time.time_ns() - SECOND_NS) for number in range(3)]))
    shown.is_unreadable = True
    browser.open(shown.url)
    browser.wait(lambda: browser.text("#notices"), "the notice")
    assert browser.text("#notices") == "No answerthe disk is gone"
    assert browser.text("main").count("the disk is gone") == 1
    assert browser.text("#live") == "no answer"
    assert browser.text("#verdict-words") == "What is wrong is not known"
    shown.is_unreadable = False
    browser.wait(lambda: browser.text("#live") == "live" and browser.all("#tiles data"), "the figures")
    assert browser.text("#notices") == ""
    browser.wait(lambda: browser.text("#verdict-words").startswith("Nothing is wrong"), "the verdict")


def test_paused_it_asks_nothing(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "all sections")
    browser.one("#live").click()
    browser.wait(lambda: browser.text("#live") == "paused", "the pause")
    browser.js("(window.asked = 0, window.ask = window.fetch, window.fetch = (...of) => (asked++, ask(...of)))")
    time.sleep(2.5)  # it asks every two seconds
    assert browser.js("window.asked") == 0
    browser.one("#live").click()
    browser.wait(lambda: browser.js("window.asked") > 0, "questions again")


def test_an_empty_ledger_says_what_to_do_and_gaps_are_told(
    browser: Browser, show: Callable[[MemoryLedger], Shown]
) -> None:
    ledger = MemoryLedger()
    shown = show(ledger)
    browser.open(shown.url)
    browser.wait(lambda: "curl" in browser.text("#rows"), "what to do")
    browser.wait(lambda: "--kv-host-bytes" in browser.text("#tier-cards"), "what to do for a store")
    now_ns = time.time_ns()
    ledger.frames.append(Gap(now_ns - 10**9, now_ns, 12, f"disk full {MARKUP}"))
    browser.wait(lambda: "Records are missing" in browser.text("#notices"), "the gap")
    assert f"12 could not be written (disk full {MARKUP})" in browser.text("#notices")
    assert browser.complaints() == []


def test_what_one_record_stands_for_is_told_in_the_list_and_in_its_waterfall(
    browser: Browser, show: Callable[[MemoryLedger], Shown]
) -> None:
    refused = {"outcome": "no_worker", "status": 503, "legs": [], "ttft_ns": None, "output_tokens": 0}
    flood = record(1, time.time_ns() - SECOND_NS, 1000, num_alike=1234, stages_ns={Stage.ROUTE: 1000}, **refused)
    shown = show(MemoryLedger([flood, record(2, time.time_ns() - SECOND_NS)]))
    browser.open(shown.url)
    browser.wait(lambda: browser.all("#request-rows tbody tr"), "the requests")
    rows = browser.js("[...document.querySelectorAll('#request-rows tbody tr')].map((row) => row.textContent)")
    assert [("no_worker × 1,234" in row, "×" in row) for row in sorted(rows, key=len)] == [(False, False), (True, True)]
    browser.js("[...document.querySelectorAll('#request-rows button.link')].find((e) => e.title === 'req-1').click()")
    browser.wait(lambda: browser.all("#explain-body .fall"), "the waterfall")
    assert "in one of 1,234 alike" in browser.text("#explain-body")
    browser.wait(
        lambda: browser.text("#drift-note") == "1,235 requests, against 0 in the window before",
        "how many were compared",
    )
    assert browser.complaints() == []


def test_what_the_gateway_cannot_write_down_is_told(browser: Browser, shown: Shown) -> None:
    browser.open(shown.url)
    browser.wait(lambda: is_drawn(browser), "all sections")
    assert browser.text("#unwritten") == ""
    outlet = shown.rig.gateway.gateway.service.metrics.observer
    told, outlet.journal = outlet.journal, lambda: JournalState(1234, 5, f"No space left {MARKUP}")
    try:
        browser.wait(lambda: browser.text("#unwritten"), "the notice")
    finally:
        outlet.journal = told
    assert browser.one("#verdict").get_attribute("data-state") != "good"
    assert f"No space left {MARKUP}: 1,234 wait in the gateway's memory. 5 were dropped" in browser.text("#unwritten")
    browser.wait(lambda: not browser.text("#unwritten"), "its end")


def test_alerts_that_fire_are_told_each_once(
    browser: Browser, show: Callable[[MemoryLedger], Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = show(MemoryLedger([record(number, time.time_ns() - SECOND_NS) for number in range(3)]))
    figures = [
        AlertFigure("ErrorBudgetBurn", MARKUP, severity, f"{severity}: it burns", time.time_ns())
        for severity in ("ticket", "page")
    ]
    outlet = shown.rig.gateway.gateway.service.metrics.observer
    monkeypatch.setattr(outlet, "fresh", lambda: Figures(time.time_ns(), alerts=figures))
    browser.open(shown.url)
    browser.wait(lambda: browser.all("#alerts li"), "the alert")
    assert browser.js("[...document.querySelectorAll('#alerts .chip')].map((each) => each.textContent)") == ["page"]
    assert f"ErrorBudgetBurn {MARKUP} page: it burns" in browser.text("#alerts")
    assert browser.text("#verdict-words") == "1 alert fires"
    assert browser.one("#verdict").get_attribute("data-state") == "bad"
    monkeypatch.undo()
    browser.wait(lambda: not browser.all("#alerts li"), "its end")
    num_rules = len(own_rules().rules)
    found = f"Nothing is wrong: {num_rules} rules see no fault in 3 requests in the last 15m"
    assert browser.text("#verdict-words") == found
    assert browser.driver.title == "Tokenworks"


def test_requests_that_failed_have_a_list(browser: Browser, shown: Shown) -> None:
    browser.open(f"{shown.url}?order=failed")
    outcomes = "[...document.querySelectorAll('#request-rows tbody .chip')].map((each) => each.textContent)"
    browser.wait(lambda: browser.js(outcomes), "the list")
    assert "ok" not in browser.js(outcomes)
    where = {"order": "failed", "limit": 12}
    answer = shown.rig.http.get("/observe/requests", params=where).json()
    assert browser.js(outcomes) == [request["outcome"] for request in answer["requests"]]


def test_the_page_allows_nothing_but_itself(shown: Shown) -> None:
    policy = shown.rig.http.get("/dashboard").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    page = (Path(__file__).parents[2] / "src" / "tokenworks" / "dashboard" / "index.html").read_text(encoding="utf-8")
    assert " style=" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_when_an_outage_was_and_what_changed_within_the_window_is_told(
    browser: Browser, show: Callable[[MemoryLedger], Shown]
) -> None:
    refused = {"outcome": "no_worker", "status": 503, "legs": [], "ttft_ns": None, "output_tokens": 0}
    now_ns = time.time_ns()
    served = [record(number, now_ns - (600 - 3 * number) * SECOND_NS) for number in range(200)]
    outage = [record(200 + number, now_ns - (300 - number) * SECOND_NS, 1000, **refused) for number in range(40)]
    shown = show(MemoryLedger(served + outage))
    browser.open(shown.url)
    browser.wait(lambda: "turned away" in browser.text("#findings"), "the finding")
    assert "worst from" in browser.text("#findings")
    assert browser.one("#verdict").get_attribute("data-state") == "bad"
    assert browser.text("#verdict-words").startswith("1 critical")
    assert browser.driver.title.startswith("(1) ")
    assert browser.js("document.querySelector('#verdict').getBoundingClientRect().top") < 200  # before all figures
    assert "hurts anna" in browser.text("#findings .whom")
    browser.js("document.querySelector('#findings summary').focus()")
    press(browser, Keys.ENTER)
    browser.js(
        "document.querySelector('[data-key=since-5m]').click()"
    )  # what is read stays open when it is drawn again
    browser.wait(lambda: "in the last 5m" in browser.text("#verdict-words"), "another window's verdict")
    browser.js("document.querySelector('[data-key=since-15m]').click()")
    browser.wait(lambda: browser.all("#findings details[open]"), "the finding unfolded")
    assert browser.js("document.querySelectorAll('#tiles [data-state=bad]').length") == 1
    browser.wait(lambda: "that came first" in browser.text("#drift-note"), "the halves")
    assert browser.complaints() == []
