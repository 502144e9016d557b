"""Whether a text is an address that HTTP can be spoken to: said once, for every setting that names a server.

A slip that only the resolver would find (`http://hooks..example.com`) is one of those that it does not tell as an error
of the network, so that it must be found where the setting is read.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def http_address(text: str) -> SplitResult | None:
    """The parts of an http:// or https:// address.

    None: it is none, it has spaces in it, or its host or port is one that there cannot be.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port  # checked when it is asked for
        host.encode("idna")  # as a resolver does: no part of a name is empty, or longer than 63 characters
    except ValueError:
        return None
    is_one_word = text.split() == [text]
    return parts if is_one_word and host and parts.scheme in ("http", "https") else None
