"""What `serve` refuses before it starts anything, so that a slip is not told minutes later in some part's log."""

from __future__ import annotations

import os

from tokenworks.contract.auth import check_keys_have_a_place
from tokenworks.contract.config import Settings


def check_before_start(settings: Settings) -> None:
    """Raises ConfigError where settings that are right one by one cannot be served together, or an address is none."""
    from tokenworks.kv.tiers.address import check_remote
    from tokenworks.observe.alerting.receiver import receivers_of
    from tokenworks.observe.chains.otlp_target import target_of

    check_keys_have_a_place(settings.gateway, settings.ledger)
    if settings.kv.remote:
        check_remote(settings.kv.remote)
    target_of(settings.export, os.environ)
    receivers_of(settings.alerts, os.environ)  # alerts that would reach nobody
