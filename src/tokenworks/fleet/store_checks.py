"""What the KV store and unlike workers need of this machine, where the settings ask for them.

Invariant: as for every check of `doctor`, what stops one from looking is itself a finding.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tokenworks.contract.config import KVSettings, Settings
from tokenworks.contract.extras import install_command
from tokenworks.contract.folders import BLOCK_FOLDER, expanded
from tokenworks.contract.worker_groups import groups_of
from tokenworks.fleet.finding import Finding, Verdict
from tokenworks.fleet.packages import is_met, requirements


def check_store(settings: Settings, available_bytes: int | None) -> Iterator[Finding]:
    """Memory, disk and libraries; nothing where nothing of it is asked for."""
    if settings.kv.is_on:
        yield check_store_memory(settings.kv, available_bytes)
    if settings.kv.disk_path:
        yield check_store_disk(settings.kv)
    if settings.kv.remote:
        yield check_extra("remote", "kv.remote")
    devices = {group.device for group in groups_of(settings) if group.runs == "openvino"}
    if devices:
        yield check_extra("openvino", 'runs = "openvino"')
    if others := devices - {"CPU"}:
        found = f"KV on {', '.join(sorted(others))} cannot be exchanged yet, and serve refuses it"
        yield Finding("openvino device", Verdict.FAIL, found, 'set device = "CPU" in [[workers]]')


def check_store_memory(kv: KVSettings, available_bytes: int | None) -> Finding:
    """The store's memory, which it takes when it starts, against what is free."""
    wanted = kv.memory_bytes
    if available_bytes is None:
        return Finding("kv memory", Verdict.OK, f"{_gib(wanted)} asked for; what is free is unknown on this system")
    found = f"{_gib(wanted)} of {_gib(available_bytes)} available"
    if wanted > available_bytes:
        return Finding("kv memory", Verdict.FAIL, found, "lower host_bytes in [kv]")
    if wanted > available_bytes // 2:
        return Finding("kv memory", Verdict.WARN, found, "little is left for weights and the workers' KV: lower one")
    return Finding("kv memory", Verdict.OK, found)


def check_store_disk(kv: KVSettings) -> Finding:
    """The disk tier's folder: may it be written, and is there room for what it may grow to."""
    folder = expanded(kv.disk_path).absolute()
    try:
        room = _room_bytes(folder)
    except OSError as error:
        advice = "set disk_path in [kv] to a folder you may write to"
        return Finding("kv disk", Verdict.FAIL, f"{folder} cannot be used: {error.strerror}", advice)
    found = f"{folder}: {_gib(kv.disk_bytes)} asked for, room for {_gib(room)}"
    if room < kv.disk_bytes:
        return Finding("kv disk", Verdict.WARN, found, "the tier stops growing when the disk is full: lower disk_bytes")
    return Finding("kv disk", Verdict.OK, found)


def check_extra(extra: str, needed_by: str) -> Finding:
    """Whether an optional set of packages is installed, which some setting needs."""
    required = requirements(extra)
    if not required:
        found = f"{needed_by} needs packages that this installation does not know of"
        return Finding(extra, Verdict.WARN, found, install_command(extra))
    missing = [line for line in required if not is_met(line)]
    if missing:
        found = f"{needed_by} needs {', '.join(missing)}"
        return Finding(extra, Verdict.FAIL, found, install_command(extra))
    return Finding(extra, Verdict.OK, "installed")


def _room_bytes(folder: Path) -> int:
    """What a tier in `folder` may hold: free space, and what it has already; raises OSError where it cannot be written.

    What others keep there is nothing that the tier could take.
    """
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists() or parent.is_symlink())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{existing} is not a folder that this user may write to")
    return shutil.disk_usage(existing).free + sum(_sizes_bytes(folder / BLOCK_FOLDER))


def _sizes_bytes(folder: Path) -> Iterator[int]:
    """Of the files below it, as far as a store that runs leaves them there meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield os.lstat(os.path.join(parent, name)).st_size


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
