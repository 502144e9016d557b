"""Tenants find only their own cached blocks, and usage says where cached tokens came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import OpenAI

from tokenworks.contract.config import KVSettings
from tokenworks.contract.kv import BlockName, Tier, block_names, root_name
from tokenworks.contract.request import Request
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.gateway.keys.tenants import ANONYMOUS, caller_of, key_in, salt_for

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, ScriptedWorker

PROMPT = list(range(100, 112))


def caching(worker: ScriptedWorker) -> None:
    """Let a worker, and a store that knows half of it, remember by name as real ones do."""
    held: dict[BlockName, Tier] = {}

    def answer(request: Request) -> Iterator[SequenceOutput]:
        names = block_names(root_name("scripted", request.salt), request.token_ids[:-1], 4)
        found = [held[name] for name in names if name in held]
        held.update(dict(zip(names, (Tier.DEVICE, Tier.HOST), strict=False)))
        fetched = {tier: 4 * found.count(tier) for tier in set(found) - {Tier.DEVICE}}
        yield SequenceOutput(request.id, [7], None, 4 * len(found), End(EndReason.LENGTH), fetched or None)

    worker.answer = answer


def cached(rig: Rig, key: str | None, **body: Any) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    answer = rig.http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 1, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_another_tenants_prompt_is_not_found(bare_rig: Rig) -> None:
    caching(bare_rig.add_worker(has_store=True))
    assert [cached(bare_rig, "alice"), cached(bare_rig, "alice")] == [0, 8]
    assert [cached(bare_rig, "bob"), cached(bare_rig, None), cached(bare_rig, "bob")] == [0, 0, 8]
    assert [cached(bare_rig, key) for key in ("none", "EMPTY")] == [8, 8]


def test_a_cache_salt_separates_within_a_tenant(bare_rig: Rig) -> None:
    caching(bare_rig.add_worker())
    assert [cached(bare_rig, "alice", cache_salt="x"), cached(bare_rig, "alice", cache_salt="x")] == [0, 8]
    assert [cached(bare_rig, "alice"), cached(bare_rig, "alice", cache_salt="y")] == [0, 0]
    assert cached(bare_rig, "bob", cache_salt="x") == 0


def test_no_tenant_and_salt_are_anothers() -> None:
    """A managed key may name any tenant that is printable: `a:b` with `c` must not find what `a` with `b:c` left."""
    pairs = [("a", "b:c"), ("a:b", "c"), ("a", None), ("a:b:c", None), ("a", "\nb"), ("a", "b"), ("anonymous", "a")]
    assert len({salt_for(tenant, salt, is_sharing=False) for tenant, salt in pairs}) == len(pairs)
    assert not "a\nb".isprintable()  # as `key_file.check_tenant` demands


def test_sharing_is_opted_in_to_and_a_salt_still_counts(running_rig: MakeRig) -> None:
    with running_rig(kv=KVSettings(tenant_sharing=True)) as rig:
        caching(rig.add_worker())
        assert [cached(rig, "alice"), cached(rig, "bob"), cached(rig, None)] == [0, 8, 8]
        assert [cached(rig, "alice", cache_salt="x"), cached(rig, "bob", cache_salt="x")] == [0, 8]


@pytest.mark.parametrize("salt", ["", "x" * 257, 5])
def test_a_salt_that_is_none_is_told(rig: Rig, salt: Any) -> None:
    response = rig.post("/v1/completions", prompt=PROMPT, cache_salt=salt)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "cache_salt")


def test_no_key_travels(bare_rig: Rig) -> None:
    worker = bare_rig.add_worker()
    cached(bare_rig, "sk-secret")
    [request] = worker.submitted
    assert request.tenant == caller_of(key_in(b"bearer  sk-secret ")).tenant != ANONYMOUS
    assert "secret" not in request.tenant + request.salt


@pytest.mark.parametrize("header", [None, b"", b"Basic abc", b"Bearer", b"Bearer ", b"Bearer none", b"Bearer EMPTY"])
def test_who_bears_no_key_is_anonymous(header: bytes | None) -> None:
    assert caller_of(key_in(header)).tenant == ANONYMOUS


def test_usage_says_which_tier_cached_tokens_came_from(bare_rig: Rig) -> None:
    caching(bare_rig.add_worker(has_store=True))
    with OpenAI(base_url=f"{bare_rig.gateway.url}/v1", api_key="a", http_client=httpx.Client()) as client:
        body: dict[str, Any] = {"model": "tiny-echo", "prompt": [PROMPT, [*PROMPT[:5], 9]], "max_tokens": 1}
        cold, warm = (client.completions.create(**body).usage for _ in range(2))
        details = [usage.prompt_tokens_details for usage in (cold, warm) if usage is not None]
        assert [each.cached_tokens for each in details if each] == [4, 12]
        assert [each.model_dump()["cached_tokens_by_tier"] for each in details if each] == [
            {"device": 4},
            {"device": 8, "host": 4},
        ]
        chunks = list(client.completions.create(**body, stream=True, stream_options={"include_usage": True}))
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens_details == details[1]


def test_usage_says_nothing_of_tiers_where_there_are_none(bare_rig: Rig) -> None:
    bare_rig.add_worker()
    usage = bare_rig.post("/v1/completions", prompt=PROMPT, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
