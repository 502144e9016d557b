"""`tokenworks doctor`: is this machine fit, and what to do if not."""

from __future__ import annotations

from typing import Any

import click

from tokenworks.cli.options import EVERY_SECTION, SettingsCommand, settings_from, takes_settings


@click.command(cls=SettingsCommand)
@takes_settings(*EVERY_SECTION, is_shown=False)
@click.pass_context
def doctor(ctx: click.Context, /, **options: Any) -> None:
    """Check this machine and say what to do about what is not right.

    Takes MODEL and every option of `tokenworks serve`, and says whether that would start. Looks at Python, the
    packages, the CPU, memory, the port, the model and the settings in effect, and at what the KV store and unlike
    workers need where they are set. Exit code 1 if something would stop `tokenworks serve`; a warning does not.

    \b
    Examples:
      tokenworks doctor
      tokenworks doctor ~/models/Qwen3-0.6B --port 8001
      tokenworks doctor --config examples/one-machine.toml
    """
    from tokenworks.cli.doctor_page import show_findings

    if not show_findings(lambda: settings_from(options)):
        ctx.exit(1)
