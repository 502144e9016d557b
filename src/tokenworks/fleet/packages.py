"""Which Python packages this project asks for, and whether they are here: read from its own metadata."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

_NAME: Final = re.compile(r"[\w.-]+")
_BOUND: Final = re.compile(r"(>=|<)\s*([\d.]+)")
_MARKER: Final = re.compile(r"""extra\s*==\s*["'](?P<extra>[^"']+)["']""")


def requirements(extra: str = "") -> list[str]:
    """What this package requires always, or for one of its optional sets; nothing where it is not installed itself."""
    try:
        lines = metadata.requires("tokenworks") or []
    except metadata.PackageNotFoundError:
        lines = []
    found = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        match = _MARKER.search(marker)
        if (match["extra"] if match else "") == extra:
            found.append(requirement.strip())
    return found


def is_met(requirement: str) -> bool:
    """Whether what is installed meets "name>=1.2,<1.4"; our own pyproject.toml uses no other comparisons."""
    name = _NAME.match(requirement)
    version = installed_version(name[0]) if name else None
    if version is None:
        return False
    return all(
        _numbers(version) >= _numbers(bound) if comparison == ">=" else _numbers(version) < _numbers(bound)
        for comparison, bound in _BOUND.findall(requirement)
    )


def installed_version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
