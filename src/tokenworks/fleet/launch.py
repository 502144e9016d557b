"""What a fleet's children are: their names, command lines and addresses, and the model that they serve.

Knows the embedded model's place; starts nothing.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.folders import LONGEST_SOCKET_PATH, expanded
from tokenworks.contract.worker_groups import groups_of
from tokenworks.fleet.events import GATEWAY, OBSERVER, STORE

EMBEDDED_MODEL: Final = Path(__file__).resolve().parent.parent / "embedded"
SETTINGS_FILE: Final = "settings.json"
_ADDRESS: Final = re.compile(r"tcp://.+:[1-9]\d*|ipc://.+", re.ASCII)
_ANYWHERE: Final = ("*", "0.0.0.0", "[::]")


def resolve_model(settings: Settings) -> Settings:
    """Settings with the checkpoint's full path and the name that clients use; raises ConfigError."""
    folder = expanded(settings.model).resolve() if settings.model else EMBEDDED_MODEL
    if not folder.is_dir():
        raise ConfigError(f"no model at {folder}: a checkpoint is a folder with config.json, *.safetensors and so on")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is not a checkpoint folder: it has no config.json")
    name = settings.gateway.model_name or folder.name
    gateway = msgspec.structs.replace(settings.gateway, model_name=name)
    return msgspec.structs.replace(settings, model=str(folder), gateway=gateway)


def child_command(name: str, settings: Settings, run_dir: Path) -> list[str]:
    """The command line that runs one child with the settings in the run directory."""
    dial = ["--gateway", dial_address(settings)]
    if name in (GATEWAY, OBSERVER):
        part = [name]
    elif name == STORE:
        part = ["kvstore", "--id", STORE, *dial]
    else:
        part = ["worker", "--id", name, "--group", str(group_index(settings, name)), *dial]
    handed = ["--settings", str(run_dir / SETTINGS_FILE), "--parent", str(os.getpid())]
    # -P: the current folder is the user's, and a file `random.py` in it is not ours to import.
    return [sys.executable, "-P", "-m", "tokenworks", *part, *handed]


def check_address(address: str) -> None:
    """Raises ConfigError where `address` is none that workers can dial."""
    if not _ADDRESS.fullmatch(address):
        raise ConfigError(f"{address!r} is no worker address: write tcp://HOST:PORT, such as tcp://0.0.0.0:7000")


def check_store_address(address: str) -> None:
    """Raises ConfigError where `address` is none that a store on this machine can be reached at."""
    scheme, _, place = address.partition("://")
    is_wrong = not _ADDRESS.fullmatch(address) or (scheme == "tcp" and place.rpartition(":")[0] in _ANYWHERE)
    if is_wrong or (scheme == "ipc" and len(os.fsencode(place)) > LONGEST_SOCKET_PATH):
        raise ConfigError(
            f"{address!r} is no store address: a store serves one machine, through its memory; write "
            f"tcp://127.0.0.1:PORT, or ipc://PATH with {LONGEST_SOCKET_PATH} bytes of path at most"
        )


def dial_address(settings: Settings) -> str:
    """Where a worker on this machine reaches the address that the gateway listens on."""
    scheme, _, place = settings.gateway.worker_address.partition("://")
    host, colon, port = place.rpartition(":")
    if scheme == "tcp" and host in _ANYWHERE:
        host = "127.0.0.1"
    return f"{scheme}://{host}{colon}{port}"


def worker_ids(settings: Settings) -> list[str]:
    """The names of this machine's workers, kind after kind."""
    return [f"w{index}" for index, _ in enumerate(_group_indices(settings))]


def group_index(settings: Settings, worker_id: str) -> int:
    """Which entry of `workers` this worker is of."""
    return _group_indices(settings)[int(worker_id.removeprefix("w"))]


def kinds_of_workers(settings: Settings) -> dict[str, WorkerGroup]:
    """The group of each worker, by its id."""
    groups = groups_of(settings)
    return {name: groups[index] for name, index in zip(worker_ids(settings), _group_indices(settings), strict=True)}


def _group_indices(settings: Settings) -> list[int]:
    return [index for index, group in enumerate(groups_of(settings)) for _ in range(group.count)]
