"""Writes the pages of `docs/reference/` that are made from the code: `python -m tokenworks.cli.reference [FOLDER]`.

Flags come from the settings structs and the commands, errors from the error tree, metrics from a gateway's registry; a
test holds that the committed pages are what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from tokenworks.cli.main import main
from tokenworks.cli.options import SettingOption, metavar
from tokenworks.cli.reference_diagnosis import diagnosis_lines
from tokenworks.contract import errors
from tokenworks.contract.alert_receivers import SEVERITIES
from tokenworks.contract.config import AlertReceiver, WorkerGroup
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.setting import (
    GROUPS,
    RECEIVERS,
    Setting,
    all_settings,
    group_settings,
    receiver_settings,
    section_types,
)
from tokenworks.gateway.metrics.metrics import Metrics
from tokenworks.gateway.pool.counts import DispatchCounts
from tokenworks.gateway.pool.registry import StoreRegistry, WorkerRegistry
from tokenworks.observe.tables.columns import COLUMNS
from tokenworks.observe.tables.presets import PRESETS

NOTICE: Final = "<!-- Made by `make reference`; change the code instead. -->"


def flags_page() -> str:
    """Every setting under all its names, then every command with the options that are its own."""
    lines = [
        NOTICE,
        "# Settings and flags",
        "",
        "A setting has four homes, each overriding the one before: its default, `tokenworks.toml` in the current",
        "folder (or `--config FILE`), the environment, the command line. Sizes in bytes are plain numbers or such as",
        "`512MB` (powers of 1000) and `4GiB` (powers of 1024). An unknown name anywhere is an error.",
    ]
    for section, struct in section_types().items():
        title = f"## `[{section}]`" if section else "## Top level"
        rows = [_setting_row(setting) for setting in all_settings() if setting.section == section]
        heading = ("flag", "key in `tokenworks.toml`", "environment", "default", "allowed", "what it is for")
        lines += ["", title, "", (struct.__doc__ or "").strip(), "", *_table(heading, rows)]
    lines += ["", *_workers_section(), "", *_receivers_section(), "", "## Commands"]
    for path, command in _commands(main, "tokenworks"):
        lines += ["", f"### `{path}`", "", command.get_short_help_str(limit=200), "", *_own_options(command)]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """Every error that a client or a terminal may see."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TokenworksError)]
    rows = [
        (f"`{kind.code}`", str(kind.status), f"`{kind.type}`", (kind.__doc__ or "").partition(".")[0]) for kind in kinds
    ]
    head = [
        NOTICE,
        "# Errors",
        "",
        "The body of an error response is OpenAI's: `message`, `type`, `code`, and `param` where one is at fault.",
        "",
    ]
    return "\n".join([*head, *_table(("code", "HTTP status", "type", "meaning"), rows)]) + "\n"


def diagnosis_page() -> str:
    """Every rule of diagnosis with its condition, and every figure that a rule may name."""
    return "\n".join([NOTICE, *diagnosis_lines(_table)]) + "\n"


@dataclass(frozen=True)
class _NothingYet:
    """What a gateway has seen before anything has happened."""

    workers: WorkerRegistry = field(default_factory=WorkerRegistry)
    stores: StoreRegistry = field(default_factory=StoreRegistry)
    counts: DispatchCounts = field(default_factory=DispatchCounts)
    num_in_flight: int = 0


def metrics_page() -> str:
    """Every metric that a gateway exposes."""
    families = Metrics(_NothingYet()).registry.collect()
    rows = [
        (f"`{family.name}{'_total' if family.type == 'counter' else ''}`", family.type, family.documentation)
        for family in families
    ]
    head = [
        NOTICE,
        "# Metrics",
        "",
        "`GET /metrics` of a gateway, in Prometheus' text format. A histogram has `_bucket`, `_sum` and `_count`.",
        "Those named `tokenworks_worker_*` have the label `worker`: what each worker said in its last heartbeat.",
        "Those named `tokenworks_kv_*` have the label `store`: what each KV store said of itself within a second.",
        "",
    ]
    return "\n".join([*head, *_table(("metric", "type", "meaning"), rows)]) + "\n"


def columns_page() -> str:
    """Every column of the table."""
    rows = [(f"`{c.key}`", c.heading, c.unit, f"`{c.formula}`", c.help) for c in COLUMNS.values()]
    head = [
        NOTICE,
        "# Columns of the table",
        "",
        "What `tokenworks table --columns KEY,...` takes; JSON and CSV have the keys, in these units (s: seconds,",
        "share: of 1). Why each of a preset's columns is there: [guides/the-table.md](../guides/the-table.md).",
        "",
    ]
    presets = [
        f"- `{name}`: {', '.join(f'`{key}`' for key in keys)}" for name, keys in PRESETS.items() if name != "all"
    ]
    table = _table(("key", "heading", "unit", "formula", "meaning"), rows)
    return "\n".join([*head, *table, "", "## Presets", "", *presets]) + "\n"


PAGES: Final = {
    "flags.md": flags_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "diagnosis.md": diagnosis_page,
    "columns.md": columns_page,
}


def write(folder: Path) -> None:
    """All pages, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


def _setting_row(setting: Setting) -> tuple[str, ...]:
    flag = f"`{setting.flag} {metavar(setting)}`" if setting.section else f"`{setting.name.upper()}` (argument)"
    names = (flag, f"`{setting.key}`", f"`{setting.environment}`")
    return *names, _default(setting), setting.allowed, setting.description


def _default(setting: Setting) -> str:
    return f"`{setting.default_text}`" if setting.default != "" else "empty"


def _workers_section() -> list[str]:
    """The keys of an entry of `[[workers]]`, which are keys of the file alone."""
    own = [setting for setting in group_settings() if setting.section == GROUPS]
    rows = [(f"`{setting.name}`", _default(setting), setting.allowed, setting.description) for setting in own]
    return [
        f"## `[[{GROUPS}]]`",
        "",
        (WorkerGroup.__doc__ or "").strip(),
        "",
        "Written once for each kind of worker, in the file only; they take the place of `fleet.workers`. An entry's",
        "own keys win over the file's `[engine]`, the environment and the command line; `block_tokens` is one for all",
        "of a pool. Messages count entries from 0: `workers[0].role`.",
        "",
        *_table(("key", "default", "allowed", "what it is for"), rows),
        "",
        "And any key of `[engine]`: "
        + ", ".join(f"`{s.name}`" for s in group_settings() if s.section == "engine")
        + ".",
    ]


def _receivers_section() -> list[str]:
    """The keys of an entry of `[[alerts.receivers]]`, of the file alone too."""
    rows = [(f"`{s.name}`", _default(s), s.allowed, s.description) for s in receiver_settings()]
    severities = ", ".join(SEVERITIES)
    rows.append(("`severities`", f"`{severities}`", f"a list of some of {severities}", "What they are told of."))
    return [
        f"## `[[{RECEIVERS}]]`",
        "",
        (AlertReceiver.__doc__ or "").strip(),
        "",
        *_table(("key", "default", "allowed", "what it is for"), rows),
    ]


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _own_options(command: click.Command) -> list[str]:
    sections = {option.setting.key for option in command.params if isinstance(option, SettingOption)}
    told = [f"Takes the settings {', '.join(f'`{key}`' for key in sorted(sections))}.", ""] if sections else []
    context = click.Context(command)
    rows = [
        (f"`{record[0]}`", record[1])
        for option in command.params
        if isinstance(option, click.Option) and not isinstance(option, SettingOption) and option.name != "help"
        if (record := option.get_help_record(context)) is not None
    ]
    return told + (_table(("option", "what it is for"), rows) if rows else ["No options of its own."])


def _table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [heading, *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return [lines[0], "|" + "---|" * len(heading), *lines[1:]]


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/reference"))
