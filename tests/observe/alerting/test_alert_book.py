"""Who is told of what: each alert once, again while it lasts, and its end; also over a restart."""

from __future__ import annotations

from tests.observe.made import HOUR_NS, NOON_NS, SECOND_NS
from tokenworks.observe.alerting.alert_book import AlertBook, Notice
from tokenworks.observe.alerting.alert_rules import PAGE, TICKET, Alert

BURN = Alert("ErrorBudgetBurn", "online", PAGE, "bad")
DRIFT = Alert("Drift", "tenant", TICKET, "other people")
STEP_NS = 30 * SECOND_NS


def told(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(notice.alert.name, notice.status) for notice in notices]


def test_an_alert_is_told_of_when_it_begins_and_when_it_has_been_over_for_two_minutes() -> None:
    book = AlertBook()
    assert told(book.update([BURN], NOON_NS)) == [("ErrorBudgetBurn", "firing")]
    assert book.update([BURN], NOON_NS + STEP_NS) == []
    for step in (2, 3, 4):
        assert book.update([], NOON_NS + step * STEP_NS) == []
    (end,) = book.update([], NOON_NS + 5 * STEP_NS)
    assert (end.is_resolved, end.since_ns) == (True, NOON_NS)
    assert book.figures() == []


def test_what_comes_and_goes_is_one_alert() -> None:
    book = AlertBook()
    book.update([BURN], NOON_NS)
    for step in range(1, 20):
        assert book.update([BURN] if step % 2 else [], NOON_NS + step * STEP_NS) == []


def test_one_that_lasts_is_told_of_every_four_hours_and_keeps_its_beginning() -> None:
    book = AlertBook()
    at = [
        step
        for step in range(0, 10 * 120)
        if book.update([BURN._replace(summary=f"step {step}")], NOON_NS + step * STEP_NS)
    ]
    assert [step * STEP_NS for step in at] == [0, 4 * HOUR_NS, 8 * HOUR_NS]
    (figure,) = book.figures()
    assert (figure.since_ns, figure.summary) == (NOON_NS, "step 1199")


def test_a_restart_tells_nothing_anew_and_still_tells_the_end() -> None:
    book = AlertBook()
    book.update([BURN, DRIFT], NOON_NS)
    again = AlertBook(book.figures())
    assert again.update([BURN], NOON_NS + STEP_NS) == []
    assert told(again.update([BURN], NOON_NS + 10 * STEP_NS)) == [("Drift", "resolved")]


def test_the_same_rule_at_another_severity_is_another_alert() -> None:
    book = AlertBook()
    book.update([BURN], NOON_NS)
    assert told(book.update([BURN, BURN._replace(severity=TICKET)], NOON_NS + 1)) == [("ErrorBudgetBurn", "firing")]
