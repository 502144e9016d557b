"""The entries of `[[alerts.receivers]]`: who else is told of alerts than the one that `[alerts]` itself names.

Entries are counted from 0, as messages about them do: `alerts.receivers[0]` is the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.contract.config import AlertReceiver
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.given import Given, find_setting
from tokenworks.contract.setting import RECEIVERS, receiver_settings

SEVERITIES: Final = ("page", "ticket")


def read_receivers(file: Path, entries: object) -> tuple[AlertReceiver, ...]:
    """What the entries in `file` say; raises ConfigError."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{file}: `{RECEIVERS}` is a list; write [[{RECEIVERS}]] and its keys below, once for each")
    return tuple(_read(file, f"{RECEIVERS}[{index}]", entry) for index, entry in enumerate(entries))


def _read(file: Path, place: str, entry: Mapping[str, object]) -> AlertReceiver:
    known = {f"{place}.{setting.name}": setting for setting in receiver_settings()}
    own: dict[str, Any] = {}
    for key, value in entry.items():
        name = f"{place}.{key}"
        if key == "severities":
            own[key] = _severities(f"{file}: {name}", value)
            continue
        setting = find_setting(name, known, f"{file}: unknown key", [*known, f"{place}.severities"])
        own[setting.name] = Given(setting, value, f"{file}: {name}", is_text=False).checked()
    return AlertReceiver(**own)


def _severities(origin: str, value: object) -> tuple[str, ...]:
    try:
        found = msgspec.convert(value, tuple[str, ...])
    except msgspec.ValidationError:
        found = ()
    if not found or not set(found) <= set(SEVERITIES):
        raise ConfigError(f"{origin}: {value!r} is not allowed; give a list of some of {', '.join(SEVERITIES)}")
    return found
