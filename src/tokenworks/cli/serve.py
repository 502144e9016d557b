"""`tokenworks serve`: the whole system on this machine, from one command."""

from __future__ import annotations

from typing import Any

import click

from tokenworks.cli.before_start import check_before_start
from tokenworks.cli.failed_start import note_failed_start
from tokenworks.cli.options import EVERY_SECTION, SettingsCommand, settings_from, takes_settings
from tokenworks.contract.errors import TokenworksError


@click.command(cls=SettingsCommand)
@takes_settings(*EVERY_SECTION)
@click.pass_context
def serve(ctx: click.Context, /, **options: Any) -> None:
    """Serve MODEL over an OpenAI-compatible HTTP API.

    MODEL is a Hugging Face checkpoint folder (config.json, *.safetensors, tokenizer.json); without it, the small
    embedded model is served. Starts a gateway and the workers, restarts what dies, and prints the address and a command
    to paste once it answers. With a size or a place for KV (--kv-...) it starts a KV store too. Workers of unlike kinds
    are written as [[workers]] in tokenworks.toml.

    \b
    Examples:
      tokenworks serve
      tokenworks serve ~/models/Qwen3-0.6B --port 8001 --model-name qwen
      tokenworks serve ~/models/Qwen3-0.6B --workers 2 --kv-bytes 4GiB
      tokenworks serve ~/models/Qwen3-0.6B --kv-host-bytes 4GiB --kv-disk-path ~/.cache/tokenworks/kv
      tokenworks serve --host 0.0.0.0 --drain-s 30

    Stop with Ctrl-C or SIGTERM: open requests finish first; a second Ctrl-C stops at once. Exit codes: 0 stopped
    cleanly, 1 failed while running, 2 wrong usage or configuration, 3 could not start.
    """
    from tokenworks.cli.main import exit_code  # which imports this when it is asked for
    from tokenworks.fleet.json_lines import json_line
    from tokenworks.fleet.supervisor import serve as serve_fleet

    settings = settings_from(options)
    check_before_start(settings)
    try:
        serve_fleet(settings)
    except TokenworksError as error:
        note_failed_start(settings, error)
        if settings.fleet.log_format == "text":
            raise
        click.echo(json_line("tokenworks", f"error: {error.message}", "error"), err=True)
        ctx.exit(exit_code(error))
