"""What may stand in `kv.remote`, and what is said of the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tokenworks.contract.errors import ConfigError
from tokenworks.kv.tiers.address import shown
from tokenworks.kv.tiers.open import check_remote, open_remote

GOOD = [
    "redis://cache",
    "redis://cache:6379/2",
    "redis://:p%40ss@10.0.0.7:6379",
    "redis://user:pass@[::1]:6379/0",
    "rediss://cache:6380?ssl_ca_certs=/etc/ca.pem",
    "valkey://cache:6379?db=3",
    "unix:///run/redis.sock",
    "unix://user:pass@/run/redis.sock?db=1",
    "s3://bucket",
    "s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=eu-west-1",
]
BAD = {
    "": "no scheme",
    "cache:6379": "begins with cache://",
    "localhost": "no scheme",
    "http://cache": "begins with http://",
    "redis://": "no host",
    "redis://:secret@": "no host",
    "redis://cache:port": "host or port cannot be read",
    "redis://:sec/ret@cache": "host or port cannot be read",
    "redis://:sec#ret@cache": "host or port cannot be read",
    "redis://cache#secret": "has a #",
    "redis://cache/kv": "database is not a number",
    "redis://cache?db=kv": "database is not a number",
    "redis://cache?timeout=3": "unknown option timeout",
    "redis://cache?ssl_ca_certs=/etc/ca.pem": "unknown option ssl_ca_certs",
    "unix://": "no socket",
    "s3://": "no bucket",
    "s3://host:9000": "no bucket",
    "s3://key:secret@bucket": "AWS_ACCESS_KEY_ID",
    "s3://bucket?endpoint=minio:9000": "endpoint is no http",
    "s3://bucket?endpoint=": "endpoint is no http",
    "s3://bucket?endpoint=http://[::1": "endpoint is no http",
    "s3://bucket?region=x&bucket=y": "unknown option bucket",
}


@pytest.mark.parametrize("url", GOOD)
def test_every_allowed_form_passes_and_opens_without_connecting(url: str) -> None:
    check_remote(url)
    if "ssl_ca_certs" not in url:
        open_remote(url).close()


@pytest.mark.parametrize(("url", "reason"), BAD.items(), ids=repr)
def test_everything_else_is_refused_with_what_is_allowed(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        check_remote(url)
    assert "redis://[[USER]:PASSWORD@]HOST" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=reason):
        open_remote(url)


def test_an_address_is_shown_without_its_password() -> None:
    assert shown("redis://user:secret@cache:6379/2?db=1") == "redis://cache:6379/2"
    assert shown("unix://:secret@/run/redis.sock") == "unix:///run/redis.sock"
    assert shown("s3://bucket/p?endpoint=http://m:9000&region=r") == "s3://bucket/p at http://m:9000"


WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("redis", "obstore"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from tokenworks.contract.errors import ConfigError
from tokenworks.kv.tiers.open import check_remote, open_remote

for url in ("redis://cache", "s3://bucket"):
    check_remote(url)
    try:
        open_remote(url)
    except ConfigError as error:
        print(error)
"""


def test_without_the_extra_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "kv.remote needs the package redis",
        "kv.remote needs the package obstore",
    ]
    assert done.stdout.count("pip install 'tokenworks[remote]'") == 2
