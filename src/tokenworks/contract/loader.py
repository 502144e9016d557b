"""The one way from what a person set to `Settings`: defaults < `tokenworks.toml` < environment < command line.

Every value is checked where it enters and an error names that place (file and key, environment name or option), the
value, and what is allowed; an unknown name is an error that offers the nearest known one. The environment and the flags
are handed in, so that this reads nothing but the one file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.setting import (
    ENVIRONMENT_PREFIX,
    NOT_SETTINGS,
    Setting,
    all_settings,
    parse_bytes,
    section_types,
)

CONFIG_FILE: Final = "tokenworks.toml"


class _Given(msgspec.Struct, frozen=True):
    """A value that somebody set, and where."""

    setting: Setting
    value: object
    origin: str
    is_text: bool  # the environment and the command line know only text: "8000" is a number there


def load_settings(
    *, config: Path | None = None, environment: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> Settings:
    """All settings from all places; raises ConfigError.

    `config` must exist; without it `tokenworks.toml` in the current folder is read if it is there. `environment` is
    `os.environ` or the like. `flags` maps keys such as "gateway.port" to what the command line gave, None for nothing.
    """
    given = [*_from_file(config), *_from_environment(environment), *_from_flags(flags or {})]
    values: dict[str, dict[str, object]] = {name: {} for name in section_types()}
    for item in given:
        values[item.setting.section][item.setting.name] = _checked(item)
    top = values.pop("")
    return msgspec.convert({**top, **values}, Settings)


def read_settings(file: Path) -> Settings:
    """Settings that `write_settings` wrote; raises ConfigError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Settings)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings in {file}: {error}") from error


def write_settings(settings: Settings, file: Path) -> None:
    """Hand settings on to a child process: all of them, so that nothing is loaded twice."""
    file.write_bytes(msgspec.json.encode(settings))


def _from_file(config: Path | None) -> Iterator[_Given]:
    file = config or Path(CONFIG_FILE)
    if config is None and not file.exists():
        return
    table = _read_toml(file)
    sections = section_types()
    known = {setting.key: setting for setting in all_settings()}
    for name, value in table.items():
        entries = {name: value}
        if name in sections and isinstance(value, dict):
            entries = {f"{name}.{key}": inner for key, inner in value.items()}
        elif name in sections:
            raise ConfigError(f"{file}: `{name}` is a table; write [{name}] and its keys below")
        for key, inner in entries.items():
            yield _Given(
                _known(key, known, f"{file}: unknown key", [*known, *sections]), inner, f"{file}: {key}", is_text=False
            )


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> Iterator[_Given]:
    known = {setting.environment: setting for setting in all_settings()}
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_SETTINGS:
            setting = _known(name, known, "unknown environment variable", list(known))
            yield _Given(setting, environment[name], name, is_text=True)


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Given]:
    known = {setting.key: setting for setting in all_settings()}
    for key, value in flags.items():
        if value is not None:
            setting = known[key]
            yield _Given(setting, value, setting.flag if setting.section else setting.name.upper(), is_text=True)


def _known(name: str, known: Mapping[str, Setting], complaint: str, names: list[str]) -> Setting:
    if name in known:
        return known[name]
    nearest = get_close_matches(name, names, n=1, cutoff=0.0)
    raise ConfigError(f"{complaint} `{name}`; the nearest known one is `{nearest[0]}`")


def _checked(given: _Given) -> object:
    """The value as its type."""
    setting, value = given.setting, given.value
    try:
        if setting.is_bytes and isinstance(value, str):
            value = parse_bytes(value)
        value = msgspec.convert(value, setting.kind, strict=not given.is_text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not finite")
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{given.origin}: {given.value!r} is not allowed; give {setting.allowed}") from error
    return value
