"""The one way from what a person set to `Settings`: defaults < `tokenworks.toml` < environment < command line.

Every value is checked where it enters and an error names that place (file and key, environment name or option), the
value, and what is allowed; an unknown name is an error that offers the nearest known one. The environment and the flags
are handed in, so that this reads nothing but the one file. The entries of `[[workers]]` come last, over all of that;
those of `[[alerts.receivers]]` stand for themselves.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.contract.alert_receivers import read_receivers
from tokenworks.contract.config import AlertReceiver, KVSettings, Settings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.given import Given, find_setting
from tokenworks.contract.setting import ENVIRONMENT_PREFIX, GROUPS, NOT_SETTINGS, RECEIVERS, all_settings, section_types
from tokenworks.contract.worker_groups import read_groups

CONFIG_FILE: Final = "tokenworks.toml"
_NEEDS: Final = {"kv.disk_bytes": "kv.disk_path", "kv.sync_s": "kv.disk_path"}


def load_settings(
    *, config: Path | None = None, environment: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> Settings:
    """All settings from all places; raises ConfigError.

    `config` must exist; without it `tokenworks.toml` in the current folder is read if it is there. `environment` is
    `os.environ` or the like. `flags` maps keys such as "gateway.port" to what the command line gave, None for nothing.
    """
    file = config or Path(CONFIG_FILE)
    table = _read_toml(file) if config is not None or file.exists() else {}
    entries, receivers = table.pop(GROUPS, []), _receivers(file, table)
    given = [*_from_table(file, table), *_from_environment(environment), *_from_flags(flags or {})]
    settings = _settings(given)
    _check_needs(given)
    _check_disk(settings.kv)
    groups = read_groups(file, entries, settings)
    if groups:
        _check_one_count(file, given)
    alerts = msgspec.structs.replace(settings.alerts, receivers=receivers)
    return msgspec.structs.replace(settings, workers=groups, alerts=alerts)


def read_settings(file: Path) -> Settings:
    """Settings that `write_settings` wrote; raises ConfigError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Settings)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings in {file}: {error}") from error


def write_settings(settings: Settings, file: Path) -> None:
    """Hand settings on to a child process: all of them, so that nothing is loaded twice."""
    file.write_bytes(msgspec.json.encode(settings))


def _receivers(file: Path, table: dict[str, Any]) -> tuple[AlertReceiver, ...]:
    """Taken out of the table, like the entries of `[[workers]]`: lists of tables are no settings of their own."""
    section, _, key = RECEIVERS.partition(".")
    alerts = table.get(section)
    return read_receivers(file, alerts.pop(key, [])) if isinstance(alerts, dict) else ()


def _settings(given: list[Given]) -> Settings:
    values: dict[str, dict[str, object]] = {name: {} for name in section_types()}
    for item in given:
        values[item.setting.section][item.setting.name] = item.checked()
    top = values.pop("")
    return msgspec.convert({**top, **values}, Settings)


def _check_needs(given: list[Given]) -> None:
    """What is set for something that nobody has turned on is refused; turned off again by an empty value is fine."""
    keys = {item.setting.key for item in given}
    for item in given:
        needed = _NEEDS.get(item.setting.key)
        if needed is not None and needed not in keys:
            raise ConfigError(f"{item.origin} means nothing without {needed}; set that too, or leave it out")


def _check_disk(kv: KVSettings) -> None:
    if kv.disk_path and not kv.disk_bytes:
        raise ConfigError(
            "kv.disk_path means nothing with kv.disk_bytes = 0; give it a size, such as 20GiB, or leave both out"
        )


def _check_one_count(file: Path, given: list[Given]) -> None:
    for item in given:
        if item.setting.key == "fleet.workers":
            raise ConfigError(
                f"{item.origin} and [[{GROUPS}]] in {file} both say how many workers there are; leave out "
                f"{item.origin} and set `count` in the entries"
            )


def _from_table(file: Path, table: Mapping[str, Any]) -> Iterator[Given]:
    sections = section_types()
    known = {setting.key: setting for setting in all_settings()}
    for name, value in table.items():
        entries = {name: value}
        if name in sections and isinstance(value, dict):
            entries = {f"{name}.{key}": inner for key, inner in value.items()}
        elif name in sections:
            raise ConfigError(f"{file}: `{name}` is a table; write [{name}] and its keys below")
        for key, inner in entries.items():
            setting = find_setting(key, known, f"{file}: unknown key", [*known, *sections, GROUPS])
            yield Given(setting, inner, f"{file}: {key}", is_text=False)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> Iterator[Given]:
    known = {setting.environment: setting for setting in all_settings()}
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS:
            setting = find_setting(name, known, "unknown environment variable", list(known))
            yield Given(setting, environment[name], name, is_text=True)


def _from_flags(flags: Mapping[str, object]) -> Iterator[Given]:
    known = {setting.key: setting for setting in all_settings()}
    for key, value in flags.items():
        if value is not None:
            setting = known[key]
            yield Given(setting, value, setting.flag if setting.section else setting.name.upper(), is_text=True)
