"""What travels between gateway, worker and supervisor: msgspec structs in MessagePack, one frame a message.

A worker dials in to a gateway (ZeroMQ DEALER to ROUTER) and says `Hello`; from then on it sends a `Heartbeat` on its
own clock, a `StepOutput` after each step that produced something for this gateway, and `BlocksChanged` when its prefix
cache changed. The gateway answers with `Submit` and `Cancel`, or with `Rejoin` where it does not know the worker (the
gateway restarted): the worker then drops what it ran for that gateway and says `Hello` again. The supervisor, which
sees a child die at once, says `WorkerExited`. A host's KV store dials in too and says `StoreStatus` every second; it
waits for no answer.

Every frame is validated as it is decoded; unknown fields are errors. `PROTOCOL` changes with any change of these types.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from tokenworks.contract.card import Card
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, KVSpec, Tier
from tokenworks.contract.record import SequenceReport, WorkerUse
from tokenworks.contract.request import Request

PROTOCOL: Final = 5


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, omit_defaults=True):
    """Base of all frames; tagged with the class name."""


class EndReason(StrEnum):
    """How a sequence ended in the engine."""

    STOP = "stop"  # a stop token was sampled
    LENGTH = "length"  # max_tokens or the window was reached
    CANCELLED = "cancelled"
    FAILED = "failed"
    REFUSED = "refused"  # it was never started: somebody else may run it


class Role(StrEnum):
    """What a worker is for, as it was configured; every worker can do everything."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


class TokenLogprobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Log probabilities at one output position: the chosen token's, and the likeliest ones in falling order."""

    chosen: float
    top_token_ids: list[int]
    top_logprobs: list[float]


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The last word on a sequence."""

    reason: EndReason
    stop_token_id: int | None = None
    error: str | None = None
    preemptions: int = 0
    param: str | None = None  # of a refusal: what of the request this worker cannot do; None: it takes none at all now
    report: SequenceReport | None = None  # what this worker spent on it; None: it does not know


class SequenceOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one step gave one sequence."""

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None  # one per token, where asked for
    cached_tokens: int | None = None  # prompt tokens not computed, whatever tier they came from; with the first token
    end: End | None = None
    fetched_tokens: dict[Tier, int] | None = None  # of the cached ones, those that came from beyond the device
    text: str | None = None  # of a foreign server, which gives text and no ids
    text_tokens: int = 0  # that the text stands for, as the foreign server counts them


class TierTraffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker fetched from one tier since it started, and whether that paid."""

    blocks: int = 0
    num_bytes: int = 0
    predicted_s: float = 0.0  # what fetching them was predicted to take
    actual_s: float = 0.0  # what it took, from the decision to the last block's arrival
    recompute_s: float = 0.0  # what computing them was predicted to take


class KVTraffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker's exchange with its host's KV store since it started."""

    is_attached: bool = False
    published_blocks: int = 0
    published_bytes: int = 0
    fetched: dict[Tier, TierTraffic] = {}
    faults: dict[str, int] = {}  # blocks that were promised and not used, by reason: see kv.format.BlockFault
    declined_blocks: int = 0  # held by the store, and computed all the same: moving was predicted to be slower


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How busy a worker is."""

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    steps: int  # steps run since start
    preemptions: int  # since start
    draft_tokens: int  # guessed ahead and computed, since start
    accepted_tokens: int  # of those, right
    arriving: int = 0  # of the waiting ones, those whose KV is on its way from the store
    evictions: int = 0  # prompts that missed a cached block which had given way to others, since start
    kv: KVTraffic = KVTraffic()
    use: WorkerUse = WorkerUse()


class Hello(Message, frozen=True):
    """A worker presents itself."""

    protocol: int
    worker_id: str
    pid: int
    model: str
    max_context_tokens: int
    kv: KVSpec | None  # None: its KV is its own affair (a foreign server)
    card: Card
    role: Role = Role.BOTH
    has_store: bool = False  # whether it publishes to, and fetches from, its host's KV store


class Heartbeat(Message, frozen=True):
    """A worker is alive; sent every second, busy or not."""

    worker_id: str
    load: Load


class StepOutput(Message, frozen=True):
    """What one step produced for one gateway."""

    outputs: list[SequenceOutput]


class BlocksChanged(Message, frozen=True):
    """Prefix-cache blocks that a worker now holds, or holds no more, in this order."""

    worker_id: str
    added: list[BlockName]
    removed: list[BlockName]


class Goodbye(Message, frozen=True):
    """A worker has drained and leaves."""

    worker_id: str


class Leaving(Message, frozen=True):
    """A worker drains: it finishes what it has and takes nothing new."""

    worker_id: str


class WorkerExited(Message, frozen=True):
    """The supervisor saw a worker's process end."""

    worker_id: str
    reason: str
    was_ready: bool = True  # as far as the supervisor knew; False: it died while it started


class TierStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tier of a store. Counters count since the store started."""

    blocks: int = 0
    used_bytes: int = 0
    limit_bytes: int = 0
    is_up: bool = True
    hits: int = 0  # blocks asked for and given
    puts: int = 0  # blocks taken in
    evictions: int = 0
    read_bytes_per_s: float = 0.0  # as measured lately; 0: not yet
    faults: dict[str, int] = {}  # by reason
    unwritten: dict[str, int] = {}  # blocks that were put and not written to it, by reason


class StoreStatus(Message, frozen=True):
    """A host's KV store is alive, and holds this much."""

    store_id: str
    pid: int
    tiers: dict[Tier, TierStatus]
    misses: int = 0  # blocks asked for that no tier holds, since start
    started_ns: int = 0  # since 1970: names this life of the store
    alive_ns: int = 0  # since then, monotonic: whoever hears it from several gateways knows which is newer


class Submit(Message, frozen=True):
    """Run this request.

    With `publishes` it is a prefill for somebody else: its end is told when the blocks of its prompt are in the store,
    or when that has failed.
    """

    request: Request
    publishes: bool = False
    sent_ns: int = 0  # by the gateway's monotonic clock, which says something beside other messages' only; 0: unsaid


class Cancel(Message, frozen=True):
    """Nobody waits for this request any more. Where it still runs, its end is told all the same, with its report."""

    request_id: str


class Rejoin(Message, frozen=True):
    """The gateway does not know this worker: drop its requests, say hello again."""


ToGateway = Hello | Heartbeat | StepOutput | BlocksChanged | Leaving | Goodbye | WorkerExited | StoreStatus
ToWorker = Submit | Cancel | Rejoin

_encoder = msgspec.msgpack.Encoder()
_to_gateway: msgspec.msgpack.Decoder[ToGateway] = msgspec.msgpack.Decoder(ToGateway)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


class WireError(TokenworksError):
    """A frame that is not one of ours."""

    code = "bad_frame"


def encode(message: Message) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def decode_to_gateway(frame: bytes) -> ToGateway:
    """The message in a frame that a gateway received; raises WireError."""
    try:
        return _to_gateway.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"bad frame to the gateway ({len(frame)} bytes): {error}") from error


def decode_to_worker(frame: bytes) -> ToWorker:
    """The message in a frame that a worker received; raises WireError."""
    try:
        return _to_worker.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"bad frame to the worker ({len(frame)} bytes): {error}") from error
