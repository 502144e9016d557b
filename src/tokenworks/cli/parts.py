"""`tokenworks gateway` and `tokenworks worker`: one part by hand. The supervisor starts its children with these too."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.contract.config import Settings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.worker_groups import own_group
from tokenworks.fleet.json_lines import JsonFormatter
from tokenworks.fleet.launch import check_address, resolve_model
from tokenworks.fleet.lifeline import die_with

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def gateways_option(purpose: str) -> Callable[[Decorated], Decorated]:
    """The gateways that a part belongs to, and what it does with their addresses."""
    help = f"A gateway's worker address to {purpose}, such as tcp://10.0.0.5:7000; repeat it for several gateways."
    return click.option("--gateway", "gateways", required=True, multiple=True, metavar="ADDRESS", help=help)


_parent = click.option("--parent", type=int, hidden=True, help="End when this process, the parent, ends.")


@click.command(cls=SettingsCommand)
@takes_settings(
    "gateway",
    "kv.tenant_sharing",
    "ledger",
    "cost",
    "objectives",
    "fleet.drain_s",
    "fleet.log_level",
    "fleet.log_format",
)
@_parent
def gateway(parent: int | None, **options: Any) -> None:
    """Run one gateway by hand, for instance in front of workers on other machines.

    It needs MODEL for the tokenizer and the chat template only. Whoever reaches --worker-address can join as a worker:
    keep it on a private network.

    \b
    Example:
      tokenworks gateway ~/models/Qwen3-0.6B --host 0.0.0.0 --worker-address tcp://0.0.0.0:7000
    """
    settings = _begin(parent, options)
    if not settings.gateway.worker_address:
        raise ConfigError("give the address where workers dial in, such as --worker-address tcp://0.0.0.0:7000")
    check_address(settings.gateway.worker_address)
    from tokenworks.gateway.process import run_gateway

    run_gateway(settings)


@click.command(cls=SettingsCommand)
@click.option("--id", "worker_id", required=True, metavar="NAME", help="This worker's name, unique in its pool.")
@gateways_option("dial")
@click.option("--group", type=int, metavar="INDEX", help="Which entry of [[workers]] it is of, counted from 0.")
@takes_settings("engine", "kv.store_address", "kv.exchange", "fleet.drain_s", "fleet.log_level", "fleet.log_format")
@_parent
def worker(worker_id: str, gateways: tuple[str, ...], group: int | None, parent: int | None, **options: Any) -> None:
    """Run one worker by hand, for instance on another machine than the gateway.

    It loads MODEL, measures itself and dials in. SIGTERM drains it: it finishes what it has and leaves. Where
    tokenworks.toml has several entries of [[workers]], --group says which of them this worker is of.

    \b
    Examples:
      tokenworks worker ~/models/Qwen3-0.6B --id w7 --gateway tcp://10.0.0.5:7000 --threads 8
      tokenworks worker ~/models/Qwen3-0.6B --id w8 --gateway tcp://10.0.0.5:7000 --group 1
    """
    settings = own_group(_begin(parent, options, worker_id), group)
    for address in gateways:
        check_address(address)
    from tokenworks.worker.environment import prepare_environment

    prepare_environment()
    from tokenworks.worker.kinds import run_any

    run_any(settings, worker_id, list(gateways))
    leave_at_once()


def _begin(parent: int | None, options: dict[str, Any], part: str = "") -> Settings:
    return start_part(parent, resolve_model(settings_from(options)), part)


def leave_at_once() -> None:
    """End a process that has closed what it had: taking PyTorch apart would take longer than all of its goodbyes."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def start_part(parent: int | None, settings: Settings, part: str = "") -> Settings:
    """What every part does first: tie itself to its parent, if it was started by one, and begin to log.

    `part` is what its log lines call it; empty: the name of its command.
    """
    if parent is not None:
        die_with(parent)
    name = part or click.get_current_context().info_name or "tokenworks"
    handler = logging.StreamHandler(sys.stderr)
    is_json = settings.fleet.log_format == "json"
    handler.setFormatter(JsonFormatter(name) if is_json else logging.Formatter(LOG_FORMAT))
    logging.basicConfig(level=settings.fleet.log_level.upper(), handlers=[handler])
    return settings
