"""The command `tokenworks`: which subcommands there are, and how an error becomes a message and an exit code.

Subcommands are imported when they are asked for, and what they need (torch above all) when they run.
Exit codes: 0 clean, 1 failed while running, 2 wrong usage or configuration, 3 could not start.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import click

import tokenworks
from tokenworks.cli.group import CommandGroup
from tokenworks.contract.errors import ConfigError, InvalidRequest, NotFound, StartupError, TokenworksError

COMMANDS: Final = {
    "serve": "tokenworks.cli.serve:serve",
    "bench": "tokenworks.bench.command:bench",
    "model": "tokenworks.cli.model:model",
    "table": "tokenworks.cli.table:table",
    "explain": "tokenworks.cli.explain:explain",
    "diagnose": "tokenworks.cli.diagnose:diagnose",
    "chains": "tokenworks.cli.chains:chains",
    "doctor": "tokenworks.cli.doctor:doctor",
    "drift": "tokenworks.cli.drift:drift",
    "alerts": "tokenworks.cli.alerts:alerts",
    "role": "tokenworks.cli.role:role",
    "key": "tokenworks.cli.key:key",
    "gateway": "tokenworks.cli.parts:gateway",
    "worker": "tokenworks.cli.parts:worker",
    "kvstore": "tokenworks.cli.kvstore:kvstore",
    "observer": "tokenworks.cli.observer:observer",
}
# What was asked for is not there: 1; it could not be understood: 2.
EXIT_CODES: Final = ((ConfigError, 2), (StartupError, 3), (NotFound, 1), (InvalidRequest, 2), (TokenworksError, 1))


class Commands(CommandGroup):
    """The group of all subcommands; ends a command that raised one of our errors with its message and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run, without a traceback for what a person can act on."""
        try:
            return super().invoke(ctx)
        except TokenworksError as error:
            click.echo(f"error: {error.message}", err=True)
            ctx.exit(exit_code(error))


def exit_code(error: TokenworksError) -> int:
    """The exit code for one of our errors."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(tokenworks.__version__, prog_name="tokenworks")
def main() -> None:
    """Serve language models on whatever compute you have.

    \b
    Start here:
      tokenworks doctor                    is this machine fit, and what to do if not
      tokenworks serve                     serve the small embedded model
      tokenworks serve ~/models/Qwen3-0.6B --port 8001
      tokenworks bench --help              measure what you serve

    Any OpenAI client can talk to the address that `serve` prints. Settings come from `tokenworks.toml` in the current
    folder, then the environment (TOKENWORKS_GATEWAY_PORT=8001), then the command line; each overrides the one before.
    """
