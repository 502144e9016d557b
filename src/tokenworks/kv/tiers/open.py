"""The remote tier that an address names. What it is made of is an extra, imported only where one is asked for."""

from __future__ import annotations

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.extras import install_command
from tokenworks.kv.tiers.address import check_remote
from tokenworks.kv.tiers.tier import BlockTier


def open_remote(url: str) -> BlockTier:
    """A tier at this address, without connecting to it yet; raises ConfigError where that cannot work."""
    check_remote(url)
    try:
        return _open_s3(url) if url.startswith("s3:") else _open_redis(url)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"kv.remote needs the package {error.name}: install it with `{install_command('remote')}`"
        ) from error


def _open_redis(url: str) -> BlockTier:
    from tokenworks.kv.tiers.redis import RedisTier

    return RedisTier(url)


def _open_s3(url: str) -> BlockTier:
    from tokenworks.kv.tiers.s3 import S3Tier

    return S3Tier(url)
