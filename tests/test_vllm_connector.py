"""examples/vllm_connector without vLLM: two servers' halves, turned by hand as vLLM would, over a real store."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zmq

from tests.worker.kv.conftest import StoreProcess
from tokenworks.contract.kv import KVSpec, block_names, root_name
from tokenworks.kv import dealer
from tokenworks.kv.client import KVClient
from tokenworks.kv.format import HEADER_BYTES, block_bytes, seal
from tokenworks.kv.protocol import Detach, Granted, Offered, Ready, encode

FOLDER = Path(__file__).parent.parent / "examples" / "vllm_connector"
TOKENS, HEADS, DIM, LAYERS, BLOCKS = 32, 2, 8, 2, 12
SPEC = KVSpec("connector tests", LAYERS, HEADS, DIM, TOKENS, "float32")
PATIENCE_S = 60.0
Tensor = torch.Tensor


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    """The example's modules, which are no package; the one that imports vLLM is left out."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    import blocks
    import cpu_layout
    import scheduler_side
    import store_line
    import worker_side

    yield SimpleNamespace(
        blocks=blocks, layout=cpu_layout, line=store_line, scheduler=scheduler_side, worker=worker_side
    )
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = StoreProcess(f"ipc://{tmp_path_factory.mktemp('kv')}/store", 8 << 20)
    yield store.address
    store.kill()


def tiled(order: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    """A kernel's way of writing tokens: entry `[token, dim]` of a head stands at `order[token * DIM + dim]`."""

    def write(kv: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        for cache, side in ((keys, kv[0]), (values, kv[1])):
            for at, slot in enumerate(slots.tolist()):
                block, token = divmod(slot, TOKENS)
                for head in range(HEADS):
                    cache[block, head].view(-1)[order[token * DIM : (token + 1) * DIM]] = side[at, head]

    return write


def shuffled(seed: int) -> Tensor:
    return torch.randperm(TOKENS * DIM, generator=torch.Generator().manual_seed(seed))


@dataclass
class Request:
    """What the connector looks at in vLLM's."""

    request_id: str
    all_token_ids: list[int]
    num_prompt_tokens: int
    cache_salt: str | None = None


def asked(request_id: str, num_tokens: int, salt: str | None = None, first: int = 0) -> Request:
    return Request(request_id, list(range(first, first + num_tokens)), num_tokens, salt)


class Server:
    """Both halves of one server, and its cache, whose tiles have an order of their own."""

    def __init__(self, parts: SimpleNamespace, address: str, name: str, seed: int) -> None:
        self.address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.clients = [KVClient(self._context, address, f"{name}-{half}", SPEC) for half in ("scheduler", "worker")]
        self.layout = parts.layout.CpuLayout(tiled(shuffled(seed)), TOKENS, HEADS, DIM, torch.float32)
        self.caches = [torch.zeros(BLOCKS, HEADS, TOKENS, 2 * DIM) for _ in range(LAYERS)]
        self.scheduler = parts.scheduler.SchedulerSide(SPEC, self.clients[0])
        self.worker = parts.worker.WorkerSide(SPEC, self.clients[1], self.caches, self.layout)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self._context.term()

    def attach(self) -> None:
        def is_attached() -> bool:
            self.scheduler._listen()
            self.worker.look()
            return all(client.is_attached for client in self.clients)

        until(is_attached)

    def promised(self, request: Request, num_computed: int = 0) -> int:
        """Tokens that vLLM is told to expect, as soon as it is told."""
        told: list[tuple[int | None, bool]] = []

        def is_told() -> bool:
            told.append(self.scheduler.matched_tokens(request, num_computed))
            return told[-1][0] is not None

        until(is_told)
        num_tokens, is_later = told[-1]
        assert num_tokens is not None
        assert is_later == (num_tokens > 0)
        return num_tokens

    def load(self, request: Request, blocks: list[int], num_tokens: int) -> set[int]:
        """Have what was promised loaded; the blocks that were lost on the way."""
        self.scheduler.load(request, blocks, num_tokens)
        loads, saves = self.scheduler.step(output())
        assert saves == []
        for load in loads:
            self.worker.begin(load)
        loaded: set[str] = set()

        def is_loaded() -> bool:
            self.worker.look()
            loaded.update(self.worker.take_loaded() or ())
            return request.request_id in loaded

        until(is_loaded)
        lost: set[int] = self.worker.take_lost_blocks()
        return lost

    def compute(self, request: Request, blocks: list[int], num_computed: int, num_tokens: int) -> list[Any]:
        """A first step over `num_tokens` of the prompt; what it has finished is saved."""
        new = SimpleNamespace(req_id=request.request_id, block_ids=[blocks], num_computed_tokens=num_computed)
        return self.saved(output(new=[new], scheduled={request.request_id: num_tokens}))

    def go_on(self, request: Request, added: list[int], num_computed: int, num_tokens: int, *, resumes: bool) -> Any:
        cached = SimpleNamespace(
            req_ids=[request.request_id],
            new_block_ids=[[added] if added else None],
            num_computed_tokens=[num_computed],
            resumed_req_ids={request.request_id} if resumes else set(),
        )
        return self.saved(output(cached=cached, scheduled={request.request_id: num_tokens}))

    def saved(self, step: Any) -> list[Any]:
        _, saves = self.scheduler.step(step)
        for save in saves:
            self.worker.offer(save)
        return list(saves)

    def until_held(self, names: list[bytes]) -> None:
        """Until the store holds these, in some tier."""

        def is_held() -> bool:
            self.worker.look()
            self.clients[0].find("held", names)
            time.sleep(0.02)
            found = [event for event in self.clients[0].receive() if getattr(event, "request", "") == "held"]
            return any(len(event.tiers) == len(names) for event in found)  # type: ignore[union-attr]

        until(is_held)

    def block(self, number: int) -> Tensor:
        """`[layers, 2, tokens, heads, dim]`, whatever the tiles are."""
        return torch.stack([self.layout.read(cache, number) for cache in self.caches])

    def fill(self, number: int, seed: int) -> Tensor:
        kv = torch.randn(LAYERS, 2, TOKENS, HEADS, DIM, generator=torch.Generator().manual_seed(seed))
        for cache, layer in zip(self.caches, kv, strict=True):
            self.layout.write(cache, number, layer)
        return kv


def output(new: Any = (), cached: Any = None, scheduled: dict[str, int] | None = None) -> Any:
    """What vLLM's scheduler says of a step."""
    nothing = SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[], resumed_req_ids=set())
    return SimpleNamespace(
        scheduled_new_reqs=list(new), scheduled_cached_reqs=cached or nothing, num_scheduled_tokens=scheduled or {}
    )


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.fixture
def servers(parts: SimpleNamespace, address: str) -> Iterator[tuple[Server, Server]]:
    one, other = Server(parts, address, "one", 1), Server(parts, address, "other", 2)
    for server in (one, other):
        server.attach()
    yield one, other
    for server in (one, other):
        server.close()


def publish(server: Server, request: Request, blocks: list[int]) -> tuple[list[bytes], list[Tensor]]:
    """Compute a prompt in one step; the names of its full blocks, and what stands in them."""
    names = block_names(root_name(SPEC.fingerprint, request.cache_salt or ""), request.all_token_ids, TOKENS)
    filled = [server.fill(block, number) for number, block in enumerate(blocks[: len(names)])]
    assert server.promised(request) == 0
    saves = server.compute(request, blocks, 0, request.num_prompt_tokens)
    assert [save.name for save in saves] == names
    server.until_held(names)
    return names, filled


def test_every_entry_comes_back_whatever_the_order_of_the_tiles(parts: SimpleNamespace) -> None:
    layout = parts.layout.CpuLayout(tiled(shuffled(5)), TOKENS, HEADS, DIM, torch.bfloat16)
    cache = torch.zeros(3, HEADS, TOKENS, 2 * DIM, dtype=torch.bfloat16)
    kv = torch.randn(2, TOKENS, HEADS, DIM).to(torch.bfloat16)
    layout.write(cache, 1, kv)
    assert torch.equal(layout.read(cache, 1), kv)
    assert not cache[0].any()
    assert not cache[2].any()


def test_a_cache_that_keeps_not_every_entry_is_refused(parts: SimpleNamespace) -> None:
    order = shuffled(5)
    order[7] = order[8]
    with pytest.raises(RuntimeError, match="cannot be shared"):
        parts.layout.CpuLayout(tiled(order), TOKENS, HEADS, DIM, torch.float32)


def test_what_one_server_has_computed_another_loads_bit_by_bit(servers: tuple[Server, Server]) -> None:
    one, other = servers
    prompt = asked("a", 4 * TOKENS, first=1000)
    _, filled = publish(one, prompt, [3, 1, 7, 2])
    again = asked("b", 4 * TOKENS, first=1000)
    assert other.promised(again) == 3 * TOKENS, "the last token is computed, and so its block"
    assert other.load(again, [5, 6, 0, 4], 3 * TOKENS) == set()
    assert [torch.equal(other.block(block), kv) for block, kv in zip([5, 6, 0], filled, strict=False)] == [True] * 3
    assert other.promised(again, 3 * TOKENS) == 0, "nothing is asked for twice"


def test_only_what_vllm_has_not_got_itself_is_loaded(servers: tuple[Server, Server]) -> None:
    one, other = servers
    _, filled = publish(one, asked("a", 4 * TOKENS + 1, first=2000), [0, 1, 2, 3, 4])
    again = asked("b", 4 * TOKENS + 1, first=2000)
    assert other.promised(again, TOKENS) == 3 * TOKENS
    assert other.load(again, [8, 9, 10, 11, 0], 3 * TOKENS) == set()
    assert not other.block(8).any(), "it was there already"
    assert torch.equal(other.block(9), filled[1])


def test_what_was_loaded_is_not_saved_again_and_what_follows_is(servers: tuple[Server, Server]) -> None:
    one, other = servers
    publish(one, asked("a", 2 * TOKENS + 1, first=3000), [0, 1, 2])
    longer = asked("b", 3 * TOKENS + 1, first=3000)
    assert other.promised(longer) == 2 * TOKENS
    other.load(longer, [0, 1, 2, 3], 2 * TOKENS)
    saves = other.compute(longer, [0, 1, 2, 3], 2 * TOKENS, TOKENS + 1)
    names = block_names(root_name(SPEC.fingerprint, ""), longer.all_token_ids, TOKENS)
    assert [(save.name, save.parent, save.block) for save in saves] == [(names[2], names[1], 2)]


def test_another_tenants_blocks_are_not_found(servers: tuple[Server, Server]) -> None:
    one, other = servers
    publish(one, asked("a", 2 * TOKENS + 1, salt="tenant", first=4000), [0, 1, 2])
    assert other.promised(asked("b", 2 * TOKENS + 1, salt="other", first=4000)) == 0
    assert other.promised(asked("c", 2 * TOKENS + 1, first=4000)) == 0
    assert other.promised(asked("d", 2 * TOKENS + 1, salt="tenant", first=4000)) == 2 * TOKENS


@contextmanager
def a_client(address: str) -> Iterator[KVClient]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client = KVClient(context, address, "a third", SPEC)
    until(lambda: client.receive() == [] and client.is_attached)
    yield client
    client.close()
    context.term()


def next_event(client: KVClient, kind: type) -> Any:
    events: list[Any] = []

    def has_come() -> bool:
        events.extend(event for event in client.receive() if isinstance(event, kind))
        return bool(events)

    until(has_come)
    return events[0]


def test_a_flipped_bit_ends_the_promise_before_it(servers: tuple[Server, Server], address: str) -> None:
    one, other = servers
    names, _ = publish(one, asked("a", 4 * TOKENS + 1, first=5000), [0, 1, 2, 3, 4])
    with a_client(address) as client:
        client.get("g", [names[2]])
        (place,) = next_event(client, Ready).places
        client.memory(place)[HEADER_BYTES + 9] ^= 1
    assert other.promised(asked("b", 4 * TOKENS + 1, first=5000)) == 2 * TOKENS


def test_a_block_that_turns_bad_after_it_was_promised_is_lost_and_told(
    servers: tuple[Server, Server], address: str
) -> None:
    one, other = servers
    names, filled = publish(one, asked("a", 2 * TOKENS + 1, first=6000), [0, 1, 2])
    again = asked("b", 2 * TOKENS + 1, first=6000)
    assert other.promised(again) == 2 * TOKENS
    with a_client(address) as client:
        client.get("g", [names[1]])
        (place,) = next_event(client, Ready).places
        client.memory(place)[HEADER_BYTES + 9] ^= 1
    assert other.load(again, [8, 9, 10], 2 * TOKENS) == {9}
    assert torch.equal(other.block(8), filled[0])


def test_a_block_of_another_shape_is_never_promised(servers: tuple[Server, Server], address: str) -> None:
    """Of the same name and as many bytes, which the checksum cannot tell."""
    _, other = servers
    theirs = KVSpec(SPEC.fingerprint, LAYERS, HEADS, 2 * DIM, TOKENS, "float16")
    assert block_bytes(theirs) == block_bytes(SPEC)
    request = asked("a", TOKENS + 1, first=7000)
    root = root_name(SPEC.fingerprint, "")
    (name,) = block_names(root, request.all_token_ids, TOKENS)
    with a_client(address) as client:
        client.offer([Offered(name, root, block_bytes(theirs), 0.1)])
        (place,) = next_event(client, Granted).places
        seal(client.memory(place), theirs, name, root)
        client.commit([name])
    other.until_held([name])
    assert other.promised(request) == 0


def test_generated_blocks_are_saved_when_they_are_full(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    request = asked("a", TOKENS + 30, first=8000)
    assert one.promised(request) == 0
    assert [save.block for save in one.compute(request, [4, 5], 0, TOKENS + 30)] == [4]
    request.all_token_ids += [1, 2]
    assert one.go_on(request, [], TOKENS + 30, 1, resumes=False) == []
    saves = one.go_on(request, [6], TOKENS + 31, 1, resumes=False)
    names = block_names(root_name(SPEC.fingerprint, ""), request.all_token_ids, TOKENS)
    assert [(save.name, save.parent, save.block) for save in saves] == [(names[1], names[0], 5)]


def test_a_preempted_request_goes_on_in_other_blocks(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    request = asked("a", 2 * TOKENS, first=9000)
    assert one.promised(request) == 0
    assert [save.block for save in one.compute(request, [4, 5], 0, TOKENS)] == [4]
    saves = one.go_on(request, [8, 9], 0, 2 * TOKENS, resumes=True)
    assert [save.block for save in saves] == [9], "the first one was saved before"


def test_a_short_prompt_asks_nothing_of_the_store(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    assert one.scheduler.matched_tokens(asked("a", TOKENS, first=100), 0) == (0, False)


def test_without_a_store_nobody_waits(parts: SimpleNamespace, tmp_path: Path) -> None:
    server = Server(parts, f"ipc://{tmp_path}/nobody", "alone", 3)
    request = asked("a", 2 * TOKENS + 1)
    assert server.scheduler.matched_tokens(request, 0) == (0, False)
    server.worker.begin(parts.scheduler.LoadOf("b", [b"x" * 32, b"y" * 32], [4, 5]))
    assert server.worker.take_loaded() == {"b"}
    assert server.worker.take_lost_blocks() == {4, 5}
    server.worker.offer(parts.scheduler.Save(b"x" * 32, b"y" * 32, 0))
    server.close()


def test_the_very_first_request_finds_the_store(parts: SimpleNamespace, servers: tuple[Server, Server]) -> None:
    one, other = servers
    publish(one, asked("a", 2 * TOKENS + 1, first=10_000), [0, 1, 2])
    client = parts.line.open_line(other._context, one.address, "started just now", SPEC, PATIENCE_S)
    other.scheduler = parts.scheduler.SchedulerSide(SPEC, client)
    other.clients.append(client)
    assert other.promised(asked("b", 2 * TOKENS + 1, first=10_000)) == 2 * TOKENS


def test_a_store_that_has_forgotten_an_idle_server_is_asked_again(servers: tuple[Server, Server]) -> None:
    one, other = servers
    publish(one, asked("a", 2 * TOKENS + 1, first=11_000), [0, 1, 2])
    dealer.send(other.clients[0].socket, encode(Detach()))
    assert other.promised(asked("b", 2 * TOKENS + 1, first=11_000)) == 2 * TOKENS


def config(world_size: int = 1, head_size: Any = DIM) -> Any:
    """As much of vLLM's as is asked."""
    model = SimpleNamespace(
        get_num_layers=lambda parallel: LAYERS,
        get_num_kv_heads=lambda parallel: HEADS,
        get_head_size=lambda: head_size,
        dtype=torch.bfloat16,
    )
    return SimpleNamespace(
        model_config=model,
        parallel_config=SimpleNamespace(world_size=world_size),
        cache_config=SimpleNamespace(block_size=TOKENS),
    )


def test_the_spec_is_what_vllm_says_of_itself(parts: SimpleNamespace) -> None:
    spec = parts.blocks.kv_spec(config(), "f")
    assert spec == KVSpec("f", LAYERS, HEADS, DIM, TOKENS, "bfloat16", numerics="vllm torch.bfloat16")


def test_a_server_in_several_processes_is_refused(parts: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="without tensor or pipeline parallelism"):
        parts.blocks.kv_spec(config(world_size=2), "f")
