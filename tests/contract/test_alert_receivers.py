"""`[[alerts.receivers]]`: read whole, and every mistake refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.config import AlertReceiver, AlertSettings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.loader import load_settings, read_settings, write_settings


def load(folder: Path, text: str) -> AlertSettings:
    file = folder / "tokenworks.toml"
    file.write_text(text)
    return load_settings(config=file, environment={}).alerts


def test_receivers_stand_beside_the_one_of_the_section_itself(tmp_path: Path) -> None:
    text = """
        [alerts]
        kind = "wecom"
        url = "https://x"
        [[alerts.receivers]]
        kind = "pagerduty"
        secret_variable = "PAGER"
        severities = ["page"]
        [[alerts.receivers]]
        url = "https://y"
        """
    found = load(tmp_path, text)
    assert (found.kind, found.url) == ("wecom", "https://x")
    assert found.receivers == (
        AlertReceiver(kind="pagerduty", secret_variable="PAGER", severities=("page",)),
        AlertReceiver(url="https://y"),
    )


def test_children_are_told_of_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "tokenworks.toml"
    file.write_text('[[alerts.receivers]]\nurl = "https://x"\n')
    settings = load_settings(config=file, environment={"TOKENWORKS_ALERTS_KIND": "webhook"})
    assert (settings.alerts.kind, len(settings.alerts.receivers)) == ("webhook", 1)
    write_settings(settings, tmp_path / "settings.json")
    assert read_settings(tmp_path / "settings.json") == settings


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[alerts]\nreceivers = "me"', "`alerts.receivers` is a list; write [[alerts.receivers]]"),
        ("[alerts]\nreceivers = [1]", "`alerts.receivers` is a list"),
        ('[[alerts.receivers]]\nkin = "wecom"', "the nearest known one is `alerts.receivers[0].kind`"),
        ('[[alerts.receivers]]\n[[alerts.receivers]]\nkind = "fax"', "alerts.receivers[1].kind: 'fax' is not allowed"),
        ("[[alerts.receivers]]\nseverities = []", "[] is not allowed; give a list of some of page, ticket"),
        ('[[alerts.receivers]]\nseverities = ["all"]', "['all'] is not allowed"),
        ('[[alerts.receivers]]\nseverities = "page"', "'page' is not allowed; give a list"),
        ("alerts = 1", "`alerts` is a table"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert complaint in caught.value.message
