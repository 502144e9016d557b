"""A group of commands, with a list of them in its help that cuts no sentence short."""

from __future__ import annotations

from typing import Final

import click

_LONGEST_SENTENCE: Final = 200


class CommandGroup(click.Group):
    """A group whose help shows the first sentence of each command, on as many lines as it takes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The section `Commands` of the help."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(_LONGEST_SENTENCE))
                    for name, command in found
                    if command is not None
                ]
            )
