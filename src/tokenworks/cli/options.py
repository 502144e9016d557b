"""Command-line options made from the settings structs, so that a setting's name, range and reason have one home.

An option passes on the text that was typed; the loader checks it as it checks the file and the environment, with the
same words. Help shows the options under their section's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from msgspec import inspect

from tokenworks.contract.config import Settings
from tokenworks.contract.loader import load_settings, read_settings
from tokenworks.contract.setting import Setting, all_settings, section_types

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
EVERY_SECTION: Final = tuple(name for name in section_types() if name)
_ACRONYMS: Final = {"kv": "KV"}


class SettingOption(click.Option):
    """The option of one setting."""

    def __init__(self, setting: Setting, *, is_shown: bool = True) -> None:
        self.setting = setting
        default = f"  [default: {setting.default_text}]" if setting.default not in ("", 0) else ""
        names = [setting.flag, setting.key.replace(".", "_")]
        super().__init__(names, help=setting.description + default, metavar=metavar(setting), hidden=not is_shown)


class SettingsCommand(click.Command):
    """A command whose help groups the settings by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own options first, then each section's."""
        groups: dict[str, list[tuple[str, str]]] = {"": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = parameter.setting.section if isinstance(parameter, SettingOption) else ""
                groups.setdefault(section, []).append(record)
        for section, records in groups.items():
            with formatter.section(f"{_title(section)} options" if section else "Options"):
                if section:
                    formatter.write_text(section_types()[section].__doc__ or "")
                    formatter.write_paragraph()
                formatter.write_dl(records)


def _title(section: str) -> str:
    return _ACRONYMS.get(section, section.capitalize())


def metavar(setting: Setting) -> str:
    """What stands for the value in help."""
    if setting.choices:
        return f"[{'|'.join(setting.choices)}]"
    if setting.is_bytes:
        return "SIZE"
    kinds = {inspect.IntType: "INTEGER", inspect.FloatType: "NUMBER", inspect.BoolType: "true|false"}
    return kinds.get(type(setting.type), "TEXT")


def takes_settings(*wanted: str, takes_model: bool = True, is_shown: bool = True) -> Callable[[Decorated], Decorated]:
    """Give a command the options for sections ("engine") and single settings ("fleet.log_level"), and MODEL.

    `is_shown`: whether its help lists them; a command that takes what another one does may say so instead.
    """

    def decorate(function: Decorated) -> Decorated:
        parameters: list[click.Parameter] = [click.Argument(["model"], required=False)] if takes_model else []
        parameters += [
            SettingOption(setting, is_shown=is_shown)
            for setting in all_settings()
            if {setting.section, setting.key} & {*wanted}
        ]
        parameters.append(
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                help="Read this file instead of tokenworks.toml in the current folder.",
            )
        )
        parameters.append(click.Option(["--settings"], type=click.Path(path_type=Path), hidden=True))
        existing = getattr(function, "__click_params__", [])
        function.__click_params__ = [*reversed(parameters), *existing]  # type: ignore[attr-defined]
        return function

    return decorate


def settings_from(options: dict[str, Any]) -> Settings:
    """The settings that a command's options ask for; raises ConfigError.

    `--settings FILE` is how the supervisor hands everything to its children; nothing else counts then.
    """
    if options["settings"] is not None:
        return read_settings(options["settings"])
    keys = {setting.key.replace(".", "_"): setting.key for setting in all_settings()}
    flags = {key: options[name] for name, key in keys.items() if name in options}
    return load_settings(config=options["config"], environment=os.environ, flags=flags)
