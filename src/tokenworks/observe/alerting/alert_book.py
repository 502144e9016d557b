"""Who is to be told of what: from the alerts that hold now to notices, each once. No clock, no network.

An alert is told of when it begins, again every `REPEAT_S` while it lasts, and once more when it has been over for
`CLEAR_S`: what comes and goes within that is one alert. The book can be written down and read again, so that an
observer that restarts does not tell everything anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from tokenworks.observe.alerting.alert_rules import Alert
from tokenworks.observe.observer.figures import AlertFigure

CLEAR_S: Final = 120
REPEAT_S: Final = 4 * 3600
_NS: Final = 10**9


class Notice(NamedTuple):
    """Something to tell."""

    alert: Alert
    is_resolved: bool
    since_ns: int  # when the alert began
    at_ns: int

    @property
    def status(self) -> str:
        """In a word."""
        return "resolved" if self.is_resolved else "firing"


class _Entry:
    def __init__(self, alert: Alert, since_ns: int, told_ns: int) -> None:
        self.alert = alert
        self.since_ns = since_ns
        self.told_ns = told_ns
        self.seen_ns = told_ns


class AlertBook:
    """The alerts that fire, or did a moment ago."""

    def __init__(self, known: Iterable[AlertFigure] = ()) -> None:
        self._entries: dict[str, _Entry] = {}
        for figure in known:
            alert = Alert(figure.name, figure.subject, figure.severity, figure.summary)
            self._entries[alert.key] = _Entry(alert, figure.since_ns, figure.told_ns)

    def update(self, firing: Iterable[Alert], now_ns: int) -> list[Notice]:
        """Take in what holds now; what to tell about it."""
        notices = [notice for alert in firing if (notice := self._see(alert, now_ns)) is not None]
        for key, entry in list(self._entries.items()):
            if now_ns - entry.seen_ns >= CLEAR_S * _NS:
                del self._entries[key]
                notices.append(Notice(entry.alert, True, entry.since_ns, now_ns))
        return notices

    def figures(self) -> list[AlertFigure]:
        """The book, to be shown and to be read again."""
        return [AlertFigure(*entry.alert, entry.since_ns, entry.told_ns) for entry in self._entries.values()]

    def _see(self, alert: Alert, now_ns: int) -> Notice | None:
        entry = self._entries.get(alert.key)
        is_new = entry is None
        if entry is None:
            entry = self._entries[alert.key] = _Entry(alert, now_ns, now_ns)
        entry.alert, entry.seen_ns = alert, now_ns
        if not is_new and now_ns - entry.told_ns < REPEAT_S * _NS:
            return None
        entry.told_ns = now_ns
        return Notice(alert, False, entry.since_ns, now_ns)
