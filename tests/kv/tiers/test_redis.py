"""The Redis tier against a real redis-server: killed, restarted, full, slow, read-only and locked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.free_port import free_port
from tests.kv.throttle import ThrottledProxy
from tests.kv.tiers.conftest import RedisServer, wait_until
from tests.kv.tiers.sealed import fill, is_whole, sealed
from tokenworks.contract.kv import BlockName
from tokenworks.kv.format import BadBlock
from tokenworks.kv.tiers.open import open_remote
from tokenworks.kv.tiers.redis import PREFIX, RedisTier
from tokenworks.kv.tiers.tier import BlockTier, PutRefused, TierError

LARGE = 3 << 20
HUGE = 16 << 20
"""More than the system's socket buffers hold: a server that dies while it sends this has not sent all of it."""


@pytest.fixture
def tier(redis_server: RedisServer) -> Iterator[BlockTier]:
    tier = open_remote(redis_server.url)
    yield tier
    tier.close()


def read(tier: BlockTier, name: BlockName, room: int = 4 << 20) -> bytes:
    into = memoryview(bytearray(room))
    return bytes(into[: tier.get(name, into)])


def test_what_was_put_is_got_by_every_kind_of_address(redis_server: RedisServer) -> None:
    name, block = sealed(1, LARGE)
    addresses = [redis_server.url, redis_server.url.replace("redis", "valkey"), f"unix://{redis_server.socket}?db=0"]
    for address in [*addresses, redis_server.url + "/0"]:
        tier = open_remote(address)
        tier.put(name, block)
        assert read(tier, name) == block
        assert read(tier, name, len(block)) == block
        tier.delete([name])
        assert read(tier, name) == b""
        tier.close()


def test_a_block_that_is_not_there_or_too_long_gives_nothing(tier: BlockTier) -> None:
    name, block = sealed(1)
    assert read(tier, name) == b""
    tier.put(name, block)
    assert read(tier, name, len(block) - 1) == b""
    tier.delete([])


def test_what_is_held_is_told_and_foreign_keys_are_not_ours(tier: BlockTier, redis_server: RedisServer) -> None:
    blocks = [sealed(number) for number in range(5)]
    for name, block in blocks[:3]:
        tier.put(name, block)
    for key in ("tokenworks:kv:1:short", "tokenworks:kv:1:" + "x" * 32, "other"):
        redis_server.command("SET", key, "value")
    assert tier.held([name for name, _ in blocks]) == {name: len(block) for name, block in blocks[:3]}
    assert tier.held([]) == {}
    assert dict(tier.names()) == {name: len(block) for name, block in blocks[:3]}


def test_a_changed_or_cut_value_is_found_by_the_reader(tier: BlockTier, redis_server: RedisServer) -> None:
    name, block = sealed(1)
    key = PREFIX + name.hex().encode()
    for position in range(0, len(block), 97):
        tier.put(name, block)
        redis_server.command("SETRANGE", key, str(position), bytes([block[position] ^ 1]))
        with pytest.raises(BadBlock):
            is_whole(read(tier, name), name)
    for length in (1, 127, 128, 4000):
        redis_server.command("SET", key, bytes(block[:length]))
        assert len(read(tier, name)) == length
        with pytest.raises(BadBlock):
            is_whole(read(tier, name), name)


def test_a_server_killed_mid_get_is_an_error_and_its_return_is_enough(redis_server: RedisServer) -> None:
    name, block = sealed(1, HUGE)
    with ThrottledProxy(("127.0.0.1", redis_server.port)) as proxy:
        tier = open_remote(f"redis://127.0.0.1:{proxy.port}")
        tier.put(name, block)
        proxy.bytes_per_s = 200_000.0
        errors: list[BaseException] = []
        getting = threading.Thread(target=lambda: collect(errors, tier, name))
        carried = proxy.carried_bytes
        getting.start()
        wait_until(lambda: proxy.carried_bytes > carried + 50_000, "the block is on its way")
        redis_server.kill()
        proxy.bytes_per_s = 1e12
        getting.join()
        assert [type(error) for error in errors] == [TierError]
        with pytest.raises(TierError):
            tier.get(name, memoryview(bytearray(HUGE)))
        redis_server.start()
        tier.put(name, block)
        assert read(tier, name, 2 * HUGE) == block
        tier.close()


def collect(errors: list[BaseException], tier: BlockTier, name: BlockName) -> None:
    try:
        tier.get(name, memoryview(bytearray(2 * HUGE)))
    except BaseException as error:
        errors.append(error)


def test_a_connection_that_broke_is_made_again(redis_server: RedisServer) -> None:
    name, block = sealed(1)
    with ThrottledProxy(("127.0.0.1", redis_server.port)) as proxy:
        tier = open_remote(f"redis://127.0.0.1:{proxy.port}")
        tier.put(name, block)
        proxy.cut()
        assert read(tier, name) == block
        tier.close()


def test_a_slow_server_gives_the_whole_block(redis_server: RedisServer) -> None:
    name, block = sealed(1, 400_000)
    with ThrottledProxy(("127.0.0.1", redis_server.port), bytes_per_s=1e6, latency_s=0.01) as proxy:
        tier = open_remote(f"redis://127.0.0.1:{proxy.port}")
        tier.put(name, block)
        assert read(tier, name) == block
        tier.close()


def test_a_silent_server_is_given_up_and_its_late_answer_is_nobodys(redis_server: RedisServer, tier: BlockTier) -> None:
    (first, one), (second, other) = sealed(1), sealed(2)
    with ThrottledProxy(("127.0.0.1", redis_server.port)) as proxy:
        for name, block in ((first, one), (second, other)):
            tier.put(name, block)
        hasty = RedisTier(f"redis://127.0.0.1:{proxy.port}", silence_s=0.2)
        proxy.latency_s = 1.0
        with pytest.raises(TierError, match="silent for too long"):
            read(hasty, first)
        proxy.latency_s = 0.0
        found: list[bytes] = []
        wait_until(lambda: reads(hasty, second, found), "an answer in time, which a busy machine may not give at once")
        assert found == [other]
        hasty.close()


def reads(tier: BlockTier, name: BlockName, found: list[bytes]) -> bool:
    try:
        found.append(read(tier, name))
    except TierError:
        return False
    return True


def test_a_full_server_refuses_puts_and_can_still_be_read(redis_server: RedisServer) -> None:
    redis_server.kill()
    redis_server.start("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    tier = open_remote(redis_server.url)
    held: dict[BlockName, memoryview] = {}
    with pytest.raises(PutRefused, match="`maxmemory`"):
        fill(tier, range(20), 1 << 20, held)
    assert held
    assert all(read(tier, name) == block for name, block in held.items())
    tier.close()


def test_a_read_only_replica_refuses_puts(redis_server: RedisServer) -> None:
    tier = open_remote(redis_server.url)
    name, block = sealed(1)
    tier.put(name, block)
    redis_server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    with pytest.raises(PutRefused, match="primary"):
        tier.put(*sealed(2))
    assert read(tier, name) == block
    tier.close()


@pytest.mark.parametrize("user", ["", "somebody:wrong@", ":wrong@"])
def test_a_wrong_password_is_told_and_not_shown(redis_server: RedisServer, user: str) -> None:
    redis_server.kill()
    redis_server.start("--requirepass", "right")
    tier = open_remote(f"redis://{user}127.0.0.1:{redis_server.port}")
    with pytest.raises(TierError, match="refuses this user or password") as caught:
        tier.put(*sealed(1))
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
    tier.close()
    right = open_remote(f"redis://:right@127.0.0.1:{redis_server.port}")
    right.put(*sealed(1))
    right.close()


def test_a_server_that_is_not_there_is_an_error_that_names_it() -> None:
    port = free_port()
    tier = open_remote(f"redis://:secret@127.0.0.1:{port}")
    for use in (lambda: tier.put(*sealed(1)), lambda: list(tier.names()), lambda: tier.held([b"0" * 16])):
        with pytest.raises(TierError, match=f"redis://127.0.0.1:{port}: it cannot be reached") as caught:
            use()
        assert "secret" not in str(caught.value)
    tier.close()
