"""What the database's packed columns hold: MessagePack, compressed where it is long.

Two forms of a record: the whole one with its costs (`pack_detail`), and after some days a compact one (`pack_record`)
that has what lists, bills and drift need: identity, outcome, times, tokens and costs, without waterfall, tags, legs and
gaps. The first byte of compressed bodies names their form, so that a later one can stand beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeVar

import msgspec

from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import (
    Costs,
    Gap,
    Incident,
    Leg,
    Record,
    StoreSample,
    Work,
    WorkerSample,
)
from tokenworks.contract.request import Scenario
from tokenworks.observe.cell import Cell
from tokenworks.observe.ledger import Ended, Span
from tokenworks.observe.store.dictionary import FORM_1

Packed = TypeVar("Packed", Cell, WorkerSample, StoreSample, Incident, Gap, Span, CostSettings)
Key = TypeVar("Key", bound=Enum)

UNREADABLE: Final = (ValueError, zlib.error, msgspec.DecodeError)
"""What unpacking may raise for a body that was changed."""

_FORM: Final = b"\x01"
_LEVEL: Final = 1  # zlib's fastest
_encoder: Final = msgspec.msgpack.Encoder()


class _Compact(msgspec.Struct, frozen=True, array_like=True):
    """A record, less what `details` has and less what its row says already. Order is the format: append only."""

    id: str
    outcome: str  # "" for "ok"
    status: int
    ttft_ns: int | None
    prompt_tokens: int
    cached_tokens: list[int]  # by tier
    output_tokens: int
    num_sequences: int
    finish_reasons: str  # joined by spaces
    is_stream: bool
    mean_logprob: float | None
    cost_device: list[int]  # by work
    cost_kv: list[int]  # by tier
    cost_transfer: int
    cost_energy: int
    cost_saved: int


class _CompactOfMany(_Compact, frozen=True, array_like=True):
    """The same of a record that stands for several requests; read as either, since what is missing is the default."""

    num_alike: int = 1


class Place(NamedTuple):
    """What a record's row says beside its body."""

    ended_ns: int
    e2e_ns: int
    dimensions: Mapping[str, str]


_compact: Final = msgspec.msgpack.Decoder(_CompactOfMany)
_detail: Final = msgspec.msgpack.Decoder(tuple[Record, Costs, bool])


def pack_record(ended: Ended) -> bytes:
    """The compact form."""
    record, costs = ended
    values = (
        record.id,
        "" if record.outcome == "ok" else record.outcome,
        record.status,
        record.ttft_ns,
        record.prompt_tokens,
        _in_order(record.cached_tokens, Tier),
        record.output_tokens,
        record.num_sequences,
        " ".join(record.finish_reasons),
        record.is_stream,
        record.mean_logprob,
        _in_order(costs.device, Work),
        _in_order(costs.kv, Tier),
        costs.transfer,
        costs.energy,
        costs.saved,
    )
    return _encoder.encode(_Compact(*values) if record.num_alike == 1 else _CompactOfMany(*values, record.num_alike))


def unpack_record(body: bytes, place: Place) -> Ended:
    """A record without waterfall, tags, legs and gaps."""
    kept = _compact.decode(body)
    record = Record(
        id=kept.id,
        started_ns=place.ended_ns - place.e2e_ns,
        e2e_ns=place.e2e_ns,
        tenant=place.dimensions["tenant"],
        model=place.dimensions["model"],
        scenario=Scenario(place.dimensions["scenario"]),
        version=place.dimensions["version"],
        outcome=kept.outcome or "ok",
        status=kept.status,
        is_stream=kept.is_stream,
        num_sequences=kept.num_sequences,
        prompt_tokens=kept.prompt_tokens,
        cached_tokens=_by_key(kept.cached_tokens, Tier),
        output_tokens=kept.output_tokens,
        finish_reasons=kept.finish_reasons.split(),
        mean_logprob=kept.mean_logprob,
        ttft_ns=kept.ttft_ns,
        legs=[Leg(place.dimensions["worker"])] if place.dimensions["worker"] else [],
        num_alike=kept.num_alike,
    )
    device, kv = _by_key(kept.cost_device, Work), _by_key(kept.cost_kv, Tier)
    return Ended(record, Costs(device, kv, kept.cost_transfer, kept.cost_energy, kept.cost_saved))


def unpack_ending(body: bytes) -> tuple[str, str]:
    """The id and the outcome alone."""
    kept = _compact.decode(body)
    return kept.id, kept.outcome or "ok"


def pack_detail(ended: Ended, is_good: bool) -> bytes:
    """The whole record, its costs, and whether it kept the objectives that held then."""
    return _compressed(_encoder.encode((*ended, is_good)))


def unpack_detail(body: bytes) -> tuple[Ended, bool]:
    """What `pack_detail` packed."""
    record, costs, is_good = _detail.decode(_plain(body))
    return Ended(record, costs), is_good


def pack(value: Cell | WorkerSample | StoreSample | Incident | Gap | Span | CostSettings) -> bytes:
    """Anything else."""
    return _compressed(_encoder.encode(value))


def unpack(kind: type[Packed], body: bytes) -> Packed:
    """What `pack` packed."""
    return msgspec.msgpack.decode(_plain(body), type=kind)


def _compressed(raw: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zdict=FORM_1)
    return _FORM + packer.compress(raw) + packer.flush()


def _plain(body: bytes) -> bytes:
    if body[:1] != _FORM:
        raise ValueError(f"a body of form {body[:1]!r}, which this version does not know")
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=FORM_1)
    return unpacker.decompress(body[1:])


def _in_order(table: Mapping[Key, int], keys: type[Key]) -> list[int]:
    """A table as a list, by the order of its keys' class; zeros at the end are left out."""
    values = [table.get(key, 0) for key in keys]
    while values and not values[-1]:
        values.pop()
    return values


def _by_key(values: Sequence[int], keys: type[Key]) -> dict[Key, int]:
    return {key: value for key, value in zip(keys, values, strict=False) if value}
