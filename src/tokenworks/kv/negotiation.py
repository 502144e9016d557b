"""Whether KV of one spec can be read as another, and how: two specs into a conversion, or into a refusal with a reason.

Exact in all but dtype: one model (its fingerprint, which covers the numerics class where the pool demands exactness),
one block size, one head size, and every layer and head that the reader needs among those that are there. A reader may
need fewer: the conversion is then a slice. The four dtypes convert into each other. What a spec says of itself in words
(`numerics`) decides nothing.

A reader has a block's header rather than its writer's spec; either will do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tokenworks.contract.kv import KVSpec
from tokenworks.kv.format import Header, model_digest

ITEM_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
"""The dtypes that can be converted, and the bytes of an element."""


class Conversion(NamedTuple):
    """How to read their block as ours: which of their layers and heads, and from which dtype to which."""

    num_layers: int  # theirs
    num_kv_heads: int  # theirs
    head_dim: int
    block_tokens: int
    layers: slice  # ours, counted from their first
    heads: slice  # ours, counted from their first
    source: str  # dtype
    target: str  # dtype

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self._kept == (self.num_layers, self.num_kv_heads)

    @property
    def is_copy(self) -> bool:
        """Whether our bytes are their bytes."""
        return self.is_whole and self.source == self.target

    @property
    def source_bytes(self) -> int:
        """Bytes of their payload, scales included."""
        return self._payload_bytes(self.num_layers, self.num_kv_heads, self.source)

    @property
    def target_bytes(self) -> int:
        """Bytes of our payload, scales included."""
        return self._payload_bytes(*self._kept, self.target)

    @property
    def _kept(self) -> tuple[int, int]:
        return self.layers.stop - self.layers.start, self.heads.stop - self.heads.start

    def _payload_bytes(self, num_layers: int, num_kv_heads: int, dtype: str) -> int:
        spec = KVSpec("", num_layers, num_kv_heads, self.head_dim, self.block_tokens, dtype)
        return spec.bytes_per_block


class Refusal(NamedTuple):
    """Their KV is of no use to us."""

    reason: str  # what differs, and what to do


def negotiate(theirs: KVSpec | Header, ours: KVSpec) -> Conversion | Refusal:
    """How a block of `theirs` is read as `ours`, or why it cannot be."""
    reason = _difference(theirs, ours)
    if reason:
        return Refusal(reason)
    return Conversion(
        *(theirs.num_layers, theirs.num_kv_heads, theirs.head_dim, theirs.block_tokens),
        layers=_slice(theirs.first_layer, ours.first_layer, ours.num_layers),
        heads=_slice(theirs.first_kv_head, ours.first_kv_head, ours.num_kv_heads),
        source=theirs.dtype,
        target=ours.dtype,
    )


def _slice(their_first: int, our_first: int, count: int) -> slice:
    return slice(our_first - their_first, our_first - their_first + count)


def _difference(theirs: KVSpec | Header, ours: KVSpec) -> str:
    """The first thing that stands in the way, in words; empty where nothing does."""
    if _model(theirs) != model_digest(ours.fingerprint):
        return (
            "another model, or another numerics class: serve the same checkpoint on both, and where they may differ in "
            'dtype or quantisation, set kv.exchange = "any"'
        )
    if theirs.block_tokens != ours.block_tokens:
        return (
            f"blocks of {theirs.block_tokens} tokens, not {ours.block_tokens}: give both the same engine.block_tokens"
        )
    if theirs.head_dim != ours.head_dim:
        return f"heads of {theirs.head_dim}, not {ours.head_dim}: these cannot be the same model; check the checkpoints"
    return _not_covered(theirs, ours) or _unknown_dtype(theirs.dtype) or _unknown_dtype(ours.dtype)


def _model(spec: KVSpec | Header) -> bytes:
    return model_digest(spec.fingerprint) if isinstance(spec, KVSpec) else spec.model


def _not_covered(theirs: KVSpec | Header, ours: KVSpec) -> str:
    held, wanted = _Ranges.of(theirs), _Ranges.of(ours)
    for what, there, here in (("layers", held.layers, wanted.layers), ("KV heads", held.heads, wanted.heads)):
        if here.start < there.start or here.stop > there.stop:
            return (
                f"{what} {_words(there)}, not {_words(here)}: take blocks from a worker that holds all of these, or "
                "compute them here"
            )
    return ""


class _Ranges(NamedTuple):
    layers: range
    heads: range

    @classmethod
    def of(cls, spec: KVSpec | Header) -> _Ranges:
        return cls(
            range(spec.first_layer, spec.first_layer + spec.num_layers),
            range(spec.first_kv_head, spec.first_kv_head + spec.num_kv_heads),
        )


def _words(numbers: range) -> str:
    return f"{numbers.start} to {numbers.stop - 1}"


def _unknown_dtype(dtype: str) -> str:
    if dtype in ITEM_BYTES:
        return ""
    return f"dtype {dtype}: what can be converted is {', '.join(ITEM_BYTES)}; serve with one of these as dtype of KV"
