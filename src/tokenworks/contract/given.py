"""One value that somebody set: for which setting, where, and whether it may be so.

Whatever place settings come from (file, environment, command line, an entry of `[[workers]]`), they pass through
`Given`, so that a mistake is told in the same words wherever it was made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches

import msgspec

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.setting import ENVIRONMENT_PREFIX, Setting, parse_bytes


class Given(msgspec.Struct, frozen=True):
    """A value that somebody set, and where."""

    setting: Setting
    value: object
    origin: str
    is_text: bool  # the environment and the command line know only text: "8000" is a number there

    def checked(self) -> object:
        """The value as its type; raises ConfigError."""
        value = self.value
        try:
            if self.setting.is_bytes and isinstance(value, str):
                value = parse_bytes(value)
            value = msgspec.convert(value, self.setting.kind, strict=not self.is_text)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("not finite")
        except (ValueError, OverflowError) as error:
            message = f"{self.origin}: {self.value!r} is not allowed; give {self.setting.allowed}"
            raise ConfigError(message) from error
        return value


def find_setting(name: str, known: Mapping[str, Setting], complaint: str, names: list[str]) -> Setting:
    """The setting of that name; raises ConfigError that offers the nearest of `names`."""
    if name in known:
        return known[name]
    bare = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    without_section = [each for each, setting in known.items() if setting.name == bare]
    nearest = without_section or get_close_matches(name, names, n=1, cutoff=0.0)
    raise ConfigError(f"{complaint} `{name}`; the nearest known one is `{nearest[0]}`")
