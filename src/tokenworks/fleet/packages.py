"""Which Python packages this project asks for, and whether they are here: read from its own metadata."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Final

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
    """Whether "name>=1.2" is installed; our own pyproject.toml uses no other form but an extra, "name[extra]>=1.2"."""
    name, _, oldest = requirement.partition(">=")
    version = installed_version(name.partition("[")[0].strip())
    return version is not None and _numbers(version) >= _numbers(oldest)


def installed_version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]
