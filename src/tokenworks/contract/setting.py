"""What can be set, read out of the structs in `config`: one `Setting` per field, with its limits and all its names.

The loader, the command line's options and the reference page are made from this list, so a setting's name, type, range,
default and reason are written once, as a field in `config`. A setting `engine.kv_bytes` is the key `kv_bytes` of the
table `[engine]`, the environment name `TOKENWORKS_ENGINE_KV_BYTES` and the option `--kv-bytes`; of the section `kv` the
last carries its name: `kv.host_bytes` is `--kv-host-bytes`.

Invariant: option names are unique over all sections (a test holds it).
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

from tokenworks.contract.config import AlertReceiver, EngineSettings, Settings, WorkerGroup

ENVIRONMENT_PREFIX: Final = "TOKENWORKS_"
GROUPS: Final = "workers"  # the list of tables, [[workers]], and the section of what only its entries have
RECEIVERS: Final = "alerts.receivers"  # the same of [[alerts.receivers]]
NOT_SETTINGS: Final = frozenset({"TOKENWORKS_API_KEY", "TOKENWORKS_TRACES"})  # read by `tokenworks bench`, by tests
_FLAG_PREFIXES: Final = {
    "kv": "kv_",
    "ledger": "ledger_",
    "cost": "cost_",
    "objectives": "slo_",
    "alerts": "alerts_",
}  # of sections whose names alone would say too little
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_BYTES: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]i?|)(?:B|b)?", re.ASCII)


class Setting(msgspec.Struct, frozen=True):
    """One field of one section."""

    section: str  # "" for a field of `Settings` itself
    name: str
    kind: Any  # the annotated type, which msgspec can convert to
    type: inspect.Type
    default: str | int | float | bool
    description: str

    @property
    def key(self) -> str:
        """The dotted name, as messages and documents write it."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def environment(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.key.replace(".", "_").upper()

    @property
    def flag(self) -> str:
        """The command line's option."""
        return "--" + (_FLAG_PREFIXES.get(self.section, "") + self.name).replace("_", "-")

    @property
    def is_bytes(self) -> bool:
        """Whether sizes such as "4GiB" are understood."""
        return self.name.endswith("_bytes")

    @property
    def default_text(self) -> str:
        """The default as a person would write it."""
        if self.is_bytes:
            return bytes_text(int(self.default))
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words, where only certain words are allowed."""
        return tuple(str(value) for value in get_args(get_args(self.kind)[0])) if self._is_choice else ()

    @property
    def allowed(self) -> str:
        """What values are allowed, in words."""
        if self._is_choice:
            return "one of " + ", ".join(self.choices)
        if self.is_bytes:
            return f"a number of bytes{self._range}, such as 1073741824, 512MB or 4GiB"
        nouns = {inspect.IntType: "an integer", inspect.FloatType: "a number", inspect.BoolType: "true or false"}
        return nouns.get(type(self.type), "a string") + self._range

    @property
    def _is_choice(self) -> bool:
        return isinstance(self.type, inspect.LiteralType)

    @property
    def _range(self) -> str:
        if not isinstance(self.type, inspect.IntType | inspect.FloatType):
            return ""
        bounds = {"at least": self.type.ge, "above": self.type.gt, "at most": self.type.le, "below": self.type.lt}
        words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
        return " " + " and ".join(words) if words else ""


def all_settings() -> list[Setting]:
    """Every setting, in the order of the structs: the top level first, then section by section."""
    return list(_all_settings())


@cache  # every command asks several times before it begins, and reading the structs takes milliseconds
def _all_settings() -> tuple[Setting, ...]:
    return tuple(setting for section, struct in section_types().items() for setting in _settings_of(section, struct))


def group_settings() -> list[Setting]:
    """Every key of an entry of `[[workers]]`: those of its own, then those of `[engine]`."""
    return [*_settings_of(GROUPS, WorkerGroup), *_settings_of("engine", EngineSettings)]


def receiver_settings() -> list[Setting]:
    """Every key of an entry of `[[alerts.receivers]]` that has one value."""
    return list(_settings_of(RECEIVERS, AlertReceiver))


def section_types() -> dict[str, type[msgspec.Struct]]:
    """The struct of each section by name; "" is the top level."""
    hints = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    nested = {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}
    return {"": Settings, **nested}


def _settings_of(section: str, struct: type[msgspec.Struct]) -> list[Setting]:
    found = []
    for field in msgspec.structs.fields(struct):
        described = inspect.type_info(field.type)
        if isinstance(described, inspect.StructType | inspect.VarTupleType):
            continue
        schema = described.extra_json_schema or {} if isinstance(described, inspect.Metadata) else {}
        bare = described.type if isinstance(described, inspect.Metadata) else described
        found.append(Setting(section, field.name, field.type, bare, field.default, str(schema.get("description", ""))))
    return found


def parse_bytes(text: str) -> int:
    """Bytes in "4GiB" (powers of 1024), "512MB" (powers of 1000) or "1048576"; raises ValueError."""
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    number, unit = match.groups()
    unit = unit[:1].upper() + unit[1:]
    return int(Decimal(number) * {**_UNITS, **_BINARY_UNITS}[unit])


def bytes_text(num_bytes: int) -> str:
    """What `parse_bytes` reads as this number, in the largest binary unit that it is a whole number of: "20GiB"."""
    whole = {unit: size for unit, size in _BINARY_UNITS.items() if num_bytes and num_bytes % size == 0}
    unit = max(whole, key=whole.__getitem__, default="")
    return f"{num_bytes // whole[unit]}{unit}B" if unit else str(num_bytes)
