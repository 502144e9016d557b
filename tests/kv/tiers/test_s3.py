"""The S3 tier against a real HTTP server that speaks S3 (moto)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from obstore.exceptions import BaseError

from tests.free_port import free_port
from tests.kv.throttle import ThrottledProxy
from tests.kv.tiers.conftest import S3Server, wait_until
from tests.kv.tiers.sealed import is_whole, sealed
from tokenworks.contract.kv import BlockName
from tokenworks.kv.format import BadBlock
from tokenworks.kv.tiers.open import open_remote
from tokenworks.kv.tiers.s3 import _explain
from tokenworks.kv.tiers.tier import BlockTier, TierError

LARGE = 3 << 20


def address(server: S3Server, port: int) -> str:
    """The server's bucket, reached through this port."""
    return f"s3://{server.bucket}/some/prefix?endpoint=http://127.0.0.1:{port}&region=us-east-1"


@pytest.fixture
def tier(s3_server: S3Server) -> Iterator[BlockTier]:
    tier = open_remote(address(s3_server, s3_server.port))
    yield tier
    tier.close()


def read(tier: BlockTier, name: BlockName, room: int = 4 << 20) -> bytes:
    into = memoryview(bytearray(room))
    return bytes(into[: tier.get(name, into)])


def test_what_was_put_is_got(tier: BlockTier) -> None:
    for payload_bytes in (8, LARGE, 8 << 20):
        name, block = sealed(payload_bytes, payload_bytes)
        tier.put(name, block)
        assert read(tier, name, 9 << 20) == block
        assert read(tier, name, len(block)) == block
        assert read(tier, name, len(block) - 1) == b""
        tier.delete([name])
        assert read(tier, name) == b""


def test_what_is_held_is_told_and_foreign_objects_are_not_ours(tier: BlockTier, s3_server: S3Server) -> None:
    blocks = [sealed(number) for number in range(5)]
    for name, block in blocks[:3]:
        tier.put(name, block)
    s3_server.put("some/prefix/notes.txt", b"x")
    s3_server.put("elsewhere/" + blocks[4][0].hex(), b"x")
    assert tier.held([name for name, _ in blocks]) == {name: len(block) for name, block in blocks[:3]}
    assert tier.held([]) == {}
    assert dict(tier.names()) == {name: len(block) for name, block in blocks[:3]}
    tier.delete([])
    tier.delete([name for name, _ in blocks])
    assert dict(tier.names()) == {}


def test_a_changed_or_cut_object_is_found_by_the_reader(tier: BlockTier, s3_server: S3Server) -> None:
    name, block = sealed(1)
    flipped = bytearray(block)
    flipped[1000] ^= 1
    for content in (bytes(flipped), bytes(block[:127]), bytes(block[:4000]), b""):
        s3_server.put(f"some/prefix/{name.hex()}", content)
        with pytest.raises(BadBlock):
            is_whole(read(tier, name), name)


def test_a_server_gone_mid_get_is_an_error(s3_server: S3Server) -> None:
    name, block = sealed(1, LARGE)
    with ThrottledProxy(("127.0.0.1", s3_server.port)) as proxy:
        tier = open_remote(address(s3_server, proxy.port))
        tier.put(name, block)
        proxy.bytes_per_s = 200_000.0
        errors: list[BaseException] = []
        getting = threading.Thread(target=lambda: collect(errors, tier, name))
        carried = proxy.carried_bytes
        getting.start()
        wait_until(lambda: proxy.carried_bytes > carried + 50_000, "the block is on its way")
        proxy.target = ("127.0.0.1", free_port())  # the server is gone, and so is every connection
        proxy.cut()
        getting.join()
        assert [type(error) for error in errors] == [TierError]
        tier.close()


def collect(errors: list[BaseException], tier: BlockTier, name: BlockName) -> None:
    try:
        tier.get(name, memoryview(bytearray(2 * LARGE)))
    except BaseException as error:
        errors.append(error)


def test_a_slow_server_gives_the_whole_block(s3_server: S3Server) -> None:
    name, block = sealed(1, 400_000)
    with ThrottledProxy(("127.0.0.1", s3_server.port), bytes_per_s=1e6, latency_s=0.01) as proxy:
        tier = open_remote(address(s3_server, proxy.port))
        tier.put(name, block)
        assert read(tier, name) == block
        tier.close()


def test_a_server_that_is_not_there_is_an_error_that_names_it(s3_server: S3Server) -> None:
    port = free_port()
    tier = open_remote(address(s3_server, port))
    for use in (lambda: tier.put(*sealed(1)), lambda: list(tier.names()), lambda: tier.held([b"0" * 16])):
        with pytest.raises(
            TierError, match=f"s3://{s3_server.bucket}/some/prefix at http://127.0.0.1:{port}: start the server"
        ):
            use()
    tier.close()


def test_keys_that_nobody_has_set_are_not_taken_for_a_server_that_is_down() -> None:
    """As the library says it; asking for real would reach for whatever role this machine has."""
    words = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 3ms - 403 Forbidden"
    assert _explain(BaseError(words)).startswith("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    assert _explain(BaseError("Generic S3 error: no route to host")).startswith("start the server")


def test_a_bucket_that_is_not_there_is_an_error(s3_server: S3Server) -> None:
    tier = open_remote(address(s3_server, s3_server.port).replace("blocks-", "nowhere-"))
    with pytest.raises(TierError, match="s3://nowhere-.* make the bucket, or correct kv.remote"):
        tier.put(*sealed(1))
    tier.close()
