"""Where on this machine things are kept from one start to the next, by the XDG base directory specification."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import ConfigError

OFF: Final = "off"
LONGEST_SOCKET_PATH: Final = 107
"""Bytes of a socket's file name on Linux (unix(7): sun_path, less the NUL)."""
BLOCK_FOLDER: Final = "tokenworks-kv-1"
"""Below `kv.disk_path`: all of it is ours, and nothing beside it."""
KERNELS_VARIABLE: Final = "NUMBA_CACHE_DIR"
BESIDE_THE_CODE: Final = Path(__file__).resolve().parent.parent / "engine" / "__pycache__"
"""Where Numba keeps what it has compiled, if it is told nothing."""


def expanded(path: str) -> Path:
    """The path with `~` and `~user` as home folders; raises ConfigError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # a user that the system does not know, as in a container that runs as any number
        raise ConfigError(f"{path}: whose home folder is not known; set HOME, or write the path whole") from error


def may_write(folder: Path) -> bool:
    """Whether a folder, or the nearest parent that exists, can be written to."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def kernel_folder() -> Path | None:
    """For compiled kernels: as told, beside the code, or below the user's cache folder; None: none can be written."""
    return next(filter(may_write, _kernel_places()), None)


def _kernel_places() -> Iterator[Path]:
    if told := os.environ.get(KERNELS_VARIABLE, ""):
        yield Path(told)
    yield BESIDE_THE_CODE
    with suppress(ConfigError):
        yield _base("XDG_CACHE_HOME", ".cache") / "kernels"


def quantized_folder() -> Path:
    """Weights that were quantised at a start, below the user's cache folder."""
    return _base("XDG_CACHE_HOME", ".cache") / "quantized"


def peaks_file() -> Path:
    """The best that this machine's devices have shown, below the user's cache folder."""
    return _base("XDG_CACHE_HOME", ".cache") / "peaks.json"


def state_folder(ledger: LedgerSettings) -> Path | None:
    """Journal, keys and database; None: there is no ledger."""
    if ledger.path == OFF:
        return None
    return expanded(ledger.path).absolute() if ledger.path else _base("XDG_STATE_HOME", ".local/state")


def _base(variable: str, otherwise: str) -> Path:
    given = os.environ.get(variable, "")
    base = Path(given) if Path(given).is_absolute() else expanded("~") / otherwise  # relative ones are to be ignored
    return base / "tokenworks"
