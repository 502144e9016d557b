"""From what a person asked for to what is started: every setting that says "derived at start" is derived here.

Knows the embedded model's place, the machine's cores and the run directory; starts nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import ConfigError
from tokenworks.fleet.events import GATEWAY
from tokenworks.fleet.port import claim_port

EMBEDDED_MODEL: Final = Path(__file__).resolve().parent.parent / "embedded"
SETTINGS_FILE: Final = "settings.json"
_ADDRESS: Final = re.compile(r"tcp://.+:[1-9]\d*|ipc://.+", re.ASCII)
_ANYWHERE: Final = ("*", "0.0.0.0", "[::]")


def resolve_model(settings: Settings) -> Settings:
    """Settings with the checkpoint's full path and the name that clients use; raises ConfigError."""
    folder = Path(settings.model).expanduser().resolve() if settings.model else EMBEDDED_MODEL
    if not folder.is_dir():
        raise ConfigError(f"no model at {folder}: a checkpoint is a folder with config.json, *.safetensors and so on")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is not a checkpoint folder: it has no config.json")
    name = settings.gateway.model_name or folder.name
    gateway = msgspec.structs.replace(settings.gateway, model_name=name)
    return msgspec.structs.replace(settings, model=str(folder), gateway=gateway)


def derive(settings: Settings, run_dir: Path, num_cores: int) -> Settings:
    """Settings with nothing left to derive: model, name, port, worker address, threads; raises StartupError."""
    settings = resolve_model(settings)
    if settings.gateway.worker_address:
        check_address(settings.gateway.worker_address)
    gateway = msgspec.structs.replace(
        settings.gateway,
        port=claim_port(settings.gateway.host, settings.gateway.port),
        worker_address=settings.gateway.worker_address or f"ipc://{run_dir}/workers",
    )
    threads = settings.engine.threads or max(1, num_cores // settings.fleet.workers)
    engine = msgspec.structs.replace(settings.engine, threads=threads)
    return msgspec.structs.replace(settings, gateway=gateway, engine=engine)


def child_command(name: str, settings: Settings, run_dir: Path) -> list[str]:
    """The command line that runs the gateway or one worker with the settings in the run directory."""
    part = [GATEWAY] if name == GATEWAY else ["worker", "--id", name, "--gateway", dial_address(settings)]
    handed = ["--settings", str(run_dir / SETTINGS_FILE), "--parent", str(os.getpid())]
    # -P: the current folder is the user's, and a file `random.py` in it is not ours to import.
    return [sys.executable, "-P", "-m", "tokenworks", *part, *handed]


def check_address(address: str) -> None:
    """Raises ConfigError where `address` is none that workers can dial."""
    if not _ADDRESS.fullmatch(address):
        raise ConfigError(f"{address!r} is no worker address: write tcp://HOST:PORT, such as tcp://0.0.0.0:7000")


def dial_address(settings: Settings) -> str:
    """Where a worker on this machine reaches the address that the gateway listens on."""
    scheme, _, place = settings.gateway.worker_address.partition("://")
    host, colon, port = place.rpartition(":")
    if scheme == "tcp" and host in _ANYWHERE:
        host = "127.0.0.1"
    return f"{scheme}://{host}{colon}{port}"


def worker_ids(settings: Settings) -> list[str]:
    """The names of this machine's workers."""
    return [f"w{index}" for index in range(settings.fleet.workers)]


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_of_cores(cores: Sequence[int], index: int, num_workers: int) -> list[int]:
    """The cores of worker `index`: neighbours, as equal in number as can be; shared only where workers are more."""
    if num_workers >= len(cores):
        return [cores[index % len(cores)]]
    start, end = (len(cores) * edge // num_workers for edge in (index, index + 1))
    return list(cores[start:end])
