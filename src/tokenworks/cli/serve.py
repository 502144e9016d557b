"""`tokenworks serve`: the whole system on this machine, from one command."""

from __future__ import annotations

import os
from typing import Any

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings


@click.command(cls=SettingsCommand)
@takes_settings("gateway", "engine", "kv", "ledger", "cost", "objectives", "alerts", "export", "fleet")
def serve(**options: Any) -> None:
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
    from tokenworks.fleet.supervisor import serve as serve_fleet
    from tokenworks.observe.alerting.receiver import receivers_of
    from tokenworks.observe.chains.otlp_target import target_of

    settings = settings_from(options)
    target_of(settings.export, os.environ)  # a bad address is said now, not in the observer's log
    receivers_of(settings.alerts, os.environ)  # alerts that would reach nobody are an error now, not when one is due
    serve_fleet(settings)
