"""`tokenworks doctor`: is this machine fit, and what to do if not."""

from __future__ import annotations

import click


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check this machine and say what to do about what is not right.

    Looks at Python, the packages, the CPU, memory, the port, the model and the settings in effect, and at what the KV
    store and unlike workers need where they are set. Exit code 1 if something would stop `tokenworks serve`; a warning
    does not.
    """
    from tokenworks.cli.doctor_page import show_findings

    if not show_findings():
        ctx.exit(1)
