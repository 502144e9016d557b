"""The entries of `[[workers]]`: workers of unlike kinds in one pool, each kind with its own engine settings.

An entry's own key wins over everything else that is said about that setting; what an entry does not say is as
`[engine]` is after the file, the environment and the command line. Rules that span keys or entries are checked here,
once, when settings are loaded: what contradicts itself, or would be ignored, is refused by name.

Entries are counted from 0, as their workers are: `workers[0]` is the first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.contract.config import EngineSettings, KVSettings, Settings, WorkerGroup
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.given import Given, find_setting
from tokenworks.contract.http_address import http_address
from tokenworks.contract.setting import GROUPS, group_settings

_ONLY_FOR: Final = {"device": "openvino", "url": "openai", "upstream_model": "openai", "key_variable": "openai"}
_OF_A_SERVER: Final = frozenset({"price_per_hour", "watts", "max_context_tokens"})


def groups_of(settings: Settings) -> tuple[WorkerGroup, ...]:
    """The kinds of workers: as `[[workers]]` says, or `fleet.workers` of one kind."""
    return settings.workers or (WorkerGroup(count=settings.fleet.workers, engine=settings.engine),)


def own_group(settings: Settings, index: int | None) -> Settings:
    """The settings of one worker of kind `index`: its engine settings in their place, and its group alone.

    None means the only kind there is. Raises ConfigError where that is not one.
    """
    groups = groups_of(settings)
    if index is not None and not settings.workers:
        raise ConfigError(f"--group {index}: there are no entries of [[workers]]; leave --group out")
    if index is None and len(groups) > 1:
        raise ConfigError(f"there are {len(groups)} entries of [[workers]]: say which one this worker is, with --group")
    if not 0 <= (index or 0) < len(groups):
        raise ConfigError(f"--group {index}: the entries of [[workers]] are {', '.join(map(str, range(len(groups))))}")
    group = groups[index or 0]
    return msgspec.structs.replace(settings, engine=group.engine, workers=(group,))


def read_groups(file: Path, entries: object, settings: Settings) -> tuple[WorkerGroup, ...]:
    """What the entries in `file` say over `settings`; raises ConfigError."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{file}: `{GROUPS}` is a list; write [[{GROUPS}]] and its keys below, once for each kind")
    groups = []
    for index, entry in enumerate(entries):
        where = f"{file}: {GROUPS}[{index}]"
        group = _read_group(file, index, entry, settings.engine)
        _check_kind(where, group, entry)
        _check_pool_member(where, group, settings)
        groups.append(group)
    if groups and all(group.role == "prefill" for group in groups):
        raise ConfigError(
            f'{file}: every entry of [[{GROUPS}]] has role = "prefill", so nobody would answer; add workers with role '
            '"decode" or "both"'
        )
    return tuple(groups)


def _read_group(file: Path, index: int, entry: Mapping[str, object], engine: EngineSettings) -> WorkerGroup:
    place = f"{GROUPS}[{index}]"
    known = {f"{place}.{setting.name}": setting for setting in group_settings()}
    own: dict[str, dict[str, Any]] = {GROUPS: {}, "engine": {}}
    for key, value in entry.items():
        name = f"{place}.{key}"
        setting = find_setting(name, known, f"{file}: unknown key", list(known))
        own[setting.section][setting.name] = Given(setting, value, f"{file}: {name}", is_text=False).checked()
    return WorkerGroup(**own[GROUPS], engine=msgspec.structs.replace(engine, **own["engine"]))


def _check_kind(where: str, group: WorkerGroup, entry: Collection[str]) -> None:
    """What the engine of this entry has no use for is refused."""
    for key, runs in _ONLY_FOR.items():
        if key in entry and group.runs != runs:
            raise ConfigError(f'{where}.{key} is only for runs = "{runs}"; leave it out, or set that')
    if group.runs == "openai":
        _check_server(where, group, entry)


def _check_server(where: str, group: WorkerGroup, entry: Collection[str]) -> None:
    """A server that others run: it has an address, hands on no KV, and decides for itself how it computes."""
    if http_address(group.url) is None:
        said = f"{where}.url: {group.url!r} is not allowed" if group.url else f'{where}: runs = "openai" needs `url`'
        raise ConfigError(f"{said}; give the server's base URL, such as http://10.0.0.7:8000/v1")
    if group.role == "prefill":
        raise ConfigError(f'{where}.role: a server at a `url` hands no KV on, so it cannot be "prefill"')
    for key in _engine_keys(entry):
        if key not in _OF_A_SERVER:
            raise ConfigError(f"{where}.{key} is decided by the server at `url`; leave it out")


def _check_pool_member(where: str, group: WorkerGroup, settings: Settings) -> None:
    """What one pool has in common, and what a role needs."""
    if group.engine.block_tokens != settings.engine.block_tokens:
        raise ConfigError(
            f"{where}.block_tokens: {group.engine.block_tokens} is not allowed: all workers of a pool share one size, "
            f"here {settings.engine.block_tokens}; leave it out, or set it in [engine]"
        )
    if group.role == "prefill" and not _has_store(settings.kv):
        raise ConfigError(
            f'{where}.role: "prefill" hands its KV on through the store, and there is none; set host_bytes in [kv], '
            "such as '4GiB'"
        )


def _has_store(kv: KVSettings) -> bool:
    return kv.is_on or bool(kv.store_address)


def _engine_keys(entry: Collection[str]) -> list[str]:
    names = {setting.name for setting in group_settings() if setting.section == "engine"}
    return [key for key in entry if key in names]
