"""What travels between a worker and its host's KV store: msgspec structs in MessagePack, one frame a message.

The bytes of blocks do not travel here. The store owns one shared memory, the arena; it hands out places in it, and a
worker writes a block (header and payload, see `format`) there and commits it, or reads one there and says `Done`.

A worker (DEALER) says `Attach` and is told where the arena is. To put blocks it asks with `Offer`; `Granted` gives
a place for each block that the store wants and does not have, which stays the worker's until `Commit` or `Abort`. To
get blocks it asks with `Find` how much of a prefix is held and where, and with `Get` has it brought into the arena:
each `Ready` names blocks that stay where they are until `Done`, each `Missing` one that will not come.
`Touch` tells of reuse that the store does not see, because the worker had the block itself.

A client that has been silent for a lease loses its places and pins, so it says something (`Alive`) every second. It may
then still write to a place that is another block's by now: that is why **every reader verifies its own copy**.
`STORE_PROTOCOL` changes with any change of these types, and a store refuses other versions.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import msgspec

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import NAME_BYTES, BlockName, KVSpec, Tier

WireName = Annotated[BlockName, msgspec.Meta(min_length=NAME_BYTES, max_length=NAME_BYTES)]
"""A frame with a name of another length is none: a tier could take such a name for its own failure."""

STORE_PROTOCOL: Final = 2
LEASE_S: Final = 30.0


class StoreMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, omit_defaults=True):
    """Base of all frames; tagged with the class name."""


class Attach(StoreMessage, frozen=True):
    """A client presents itself; again where it thinks that the store has restarted."""

    protocol: int
    client_id: str
    spec: KVSpec


class Offered(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A block that a worker has computed."""

    name: WireName
    parent: WireName
    num_bytes: int  # header and payload
    recompute_s: float  # what computing it again after its parents would take


class Offer(StoreMessage, frozen=True):
    """Blocks that could be put, each after its parent."""

    blocks: list[Offered]


class Commit(StoreMessage, frozen=True):
    """These granted places have been written."""

    names: list[WireName]


class Abort(StoreMessage, frozen=True):
    """These granted places will not be written."""

    names: list[WireName]


class Find(StoreMessage, frozen=True):
    """How much of this chain of blocks is held? A remote tier that is slower than computing them is not asked."""

    request: str
    names: list[WireName]
    recompute_s: float = math.inf  # what computing one of them takes


class Get(StoreMessage, frozen=True):
    """Bring these blocks into the arena, in this order, and pin them there."""

    request: str
    names: list[WireName]


class Done(StoreMessage, frozen=True):
    """The blocks of a `Get` are not needed any more; what has not come yet need not come."""

    request: str


class Touch(StoreMessage, frozen=True):
    """These blocks were used again, out of the worker's own memory."""

    names: list[WireName]


class Alive(StoreMessage, frozen=True):
    """The client is there."""


class Detach(StoreMessage, frozen=True):
    """The client leaves: its places and pins are free."""


class TierSpeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How fast a tier is read, as measured lately: bytes / bytes_per_s + latency_s is one block's time."""

    latency_s: float
    bytes_per_s: float  # 0: not measured yet, so that nobody may count on it


class Attached(StoreMessage, frozen=True):
    """Welcome. `arena_path` can be opened and mapped by any process of the same user on this machine."""

    store_id: str  # another one after every restart of the store
    arena_path: str
    arena_bytes: int
    speeds: dict[Tier, TierSpeed]


class Refused(StoreMessage, frozen=True):
    """The client cannot be served; `reason` says what to do."""

    reason: str


class Speeds(StoreMessage, frozen=True):
    """The tiers' speeds, every few seconds."""

    speeds: dict[Tier, TierSpeed]


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Where a block stands in the arena."""

    name: WireName
    offset: int
    num_bytes: int
    tier: Tier = Tier.HOST  # where it was when it was asked for


class Granted(StoreMessage, frozen=True):
    """Places to write offered blocks to; of the others the store has some, and does not want the rest."""

    places: list[Place]


class Found(StoreMessage, frozen=True):
    """The tiers of the longest prefix of the names that is held without a gap, one for each block."""

    request: str
    tiers: list[Tier]


class Ready(StoreMessage, frozen=True):
    """These blocks can be read."""

    request: str
    places: list[Place]


class Missing(StoreMessage, frozen=True):
    """These blocks will not come."""

    request: str
    names: list[WireName]
    reason: str  # a BlockFault


class Unknown(StoreMessage, frozen=True):
    """The store does not know this client (it has restarted, or the lease ran out): attach again."""


ToStore = Attach | Offer | Commit | Abort | Find | Get | Done | Touch | Alive | Detach
ToClient = Attached | Refused | Speeds | Granted | Found | Ready | Missing | Unknown

_encoder = msgspec.msgpack.Encoder()
_to_store: msgspec.msgpack.Decoder[ToStore] = msgspec.msgpack.Decoder(ToStore)
_to_client: msgspec.msgpack.Decoder[ToClient] = msgspec.msgpack.Decoder(ToClient)


class StoreWireError(TokenworksError):
    """A frame between worker and store that is not one of ours."""

    code = "bad_frame"


def encode(message: StoreMessage) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def decode_to_store(frame: bytes) -> ToStore:
    """The message in a frame that the store received; raises StoreWireError."""
    try:
        return _to_store.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreWireError(f"bad frame to the store ({len(frame)} bytes): {error}") from error


def decode_to_client(frame: bytes) -> ToClient:
    """The message in a frame that a client received; raises StoreWireError."""
    try:
        return _to_client.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreWireError(f"bad frame from the store ({len(frame)} bytes): {error}") from error
