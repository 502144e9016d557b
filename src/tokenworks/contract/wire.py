"""What travels between gateway, worker and supervisor: msgspec structs in MessagePack, one frame a message.

A worker dials in to a gateway (ZeroMQ DEALER to ROUTER) and says `Hello`; from then on it sends a `Heartbeat` on its
own clock, a `StepOutput` after each step that produced something for this gateway, and `BlocksChanged` when its prefix
cache changed. The gateway answers with `Submit` and `Cancel`, or with `Rejoin` where it does not know the worker (the
gateway restarted): the worker then drops what it ran for that gateway and says `Hello` again. The supervisor, which
sees a child die at once, says `WorkerExited`.

Every frame is validated as it is decoded; unknown fields are errors. `PROTOCOL` changes with any change of these types.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from tokenworks.contract.card import Card
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import BlockName, KVSpec
from tokenworks.contract.request import Request

PROTOCOL: Final = 2


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, omit_defaults=True):
    """Base of all frames; tagged with the class name."""


class EndReason(StrEnum):
    """How a sequence ended in the engine."""

    STOP = "stop"  # a stop token was sampled
    LENGTH = "length"  # max_tokens or the window was reached
    CANCELLED = "cancelled"
    FAILED = "failed"


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


class SequenceOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one step gave one sequence."""

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None  # one per token, where asked for
    cached_tokens: int | None = None  # prompt tokens not computed; set with the first token
    end: End | None = None


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


class Hello(Message, frozen=True):
    """A worker presents itself."""

    protocol: int
    worker_id: str
    pid: int
    model: str
    max_context_tokens: int
    kv: KVSpec
    card: Card


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


class Submit(Message, frozen=True):
    """Run this request."""

    request: Request


class Cancel(Message, frozen=True):
    """Nobody waits for this request any more."""

    request_id: str


class Rejoin(Message, frozen=True):
    """The gateway does not know this worker: drop its requests, say hello again."""


ToGateway = Hello | Heartbeat | StepOutput | BlocksChanged | Leaving | Goodbye | WorkerExited
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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"bad frame to the gateway ({len(frame)} bytes): {error}") from error


def decode_to_worker(frame: bytes) -> ToWorker:
    """The message in a frame that a worker received; raises WireError."""
    try:
        return _to_worker.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"bad frame to the worker ({len(frame)} bytes): {error}") from error
