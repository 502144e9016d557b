"""`tokenworks kvstore`: one host's KV store by hand. The supervisor starts its own with this too."""

from __future__ import annotations

from typing import Any

import click

from tokenworks.cli.options import SettingsCommand, settings_from, takes_settings
from tokenworks.cli.parts import gateways_option, start_part
from tokenworks.fleet.launch import check_address, check_store_address


@click.command(cls=SettingsCommand)
@click.option("--id", "store_id", required=True, metavar="NAME", help="This store's name, one for each host.")
@gateways_option("report to")
@takes_settings("kv", "fleet.log_level", "fleet.log_format", takes_model=False)
@click.option("--parent", type=int, hidden=True, help="End when this process, the parent, ends.")
def kvstore(store_id: str, gateways: tuple[str, ...], parent: int | None, **options: Any) -> None:
    """Run one host's KV store by hand, for the workers of this machine.

    It keeps blocks of KV in memory that the workers share, on disk and in a remote tier, beyond the life of any of
    them. SIGTERM writes back what is not on disk yet, and ends it.

    \b
    Example:
      tokenworks kvstore --id kv0 --gateway tcp://10.0.0.5:7000 --kv-store-address ipc:///run/tokenworks-kv \\
        --kv-host-bytes 8GiB --kv-disk-path /var/cache/tokenworks
    """
    settings = start_part(parent, settings_from(options), store_id)
    for address in gateways:
        check_address(address)
    if settings.kv.store_address:
        check_store_address(settings.kv.store_address)
    from tokenworks.kv.process import run_store

    run_store(settings, store_id, list(gateways))
