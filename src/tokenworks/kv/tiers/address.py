"""What may stand in `kv.remote`, checked without connecting, and how it is shown: never with its password.

And how a block's name is found again in what somebody else's server lists.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from tokenworks.contract.errors import ConfigError
from tokenworks.contract.http_address import http_address
from tokenworks.contract.kv import NAME_BYTES, BlockName

_FORMS: Final = """redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]
rediss://... (the same over TLS; ?ssl_ca_certs=FILE for a CA of your own)
valkey://... (the same as redis://)
unix://[[USER]:PASSWORD@]/PATH/OF/SOCKET[?db=DB]
s3://BUCKET[/PREFIX][?endpoint=http://HOST:PORT&region=REGION]"""
_OPTIONS: Final = {
    "redis": {"db"},
    "valkey": {"db"},
    "rediss": {"db", "ssl_ca_certs"},
    "unix": {"db"},
    "s3": {"endpoint", "region"},
}


def check_remote(url: str) -> None:
    """Raises ConfigError, which says what is allowed, where this cannot be the address of a remote tier."""
    parts = _split(url)
    if parts.scheme not in _OPTIONS:
        raise _wrong(f"it begins with {parts.scheme + '://' if parts.scheme else 'no scheme'}")
    _check_options(parts)
    if parts.fragment:
        raise _wrong("it has a #; in a password, write %23")
    if parts.scheme == "s3":
        _check_s3(parts)
    else:
        _check_redis(parts)


def options(url: str) -> dict[str, str]:
    """What stands behind the question mark, by name."""
    return dict(parse_qsl(urlsplit(url).query))


def shown(url: str) -> str:
    """The address as logs and errors may show it."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2] + parts.path
    endpoint = options(url).get("endpoint", "")
    return f"{parts.scheme}://{place}" + (f" at {endpoint}" if endpoint else "")


def name_in(digits: str) -> BlockName | None:
    """The block's name that this is in hexadecimal; None for what is not ours."""
    try:
        name = bytes.fromhex(digits)
    except ValueError:
        return None
    return name if name.hex() == digits and len(name) == NAME_BYTES else None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked when it is asked for
    except ValueError as error:
        raise _wrong("its host or port cannot be read; in a password, write @, / and : as %40, %2F and %3A") from error
    return parts


def _check_options(parts: SplitResult) -> None:
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = given.keys() - _OPTIONS[parts.scheme]
    if unknown:
        raise _wrong(f"it has the unknown option {min(unknown)}")
    _check_number(given.get("db", "0"))


def _check_redis(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise _wrong("it names no socket")
        return
    if not parts.hostname:
        raise _wrong("it names no host")
    _check_number(parts.path.strip("/") or "0")


def _check_number(database: str) -> None:
    if not (database.isascii() and database.isdigit()):
        raise _wrong("its database is not a number")


def _check_s3(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise _wrong("keys do not belong into it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if not parts.netloc or parts.port is not None:
        raise _wrong("it names no bucket")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if http_address(given.get("endpoint", "https://aws")) is None:
        raise _wrong("its endpoint is no http:// or https:// address")


def _wrong(reason: str) -> ConfigError:
    """The address itself is not repeated: it may hold a password."""
    return ConfigError(f"kv.remote cannot be used: {reason}. Allowed are\n{_FORMS}")
