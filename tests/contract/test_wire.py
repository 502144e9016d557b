"""Frames: round-tripped, truncated, bit-flipped, version-bumped. A frame is what was sent, or a WireError."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from tokenworks.contract.card import Card, DecodePoint, PrefillPoint
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Request, Sampling, Scenario
from tokenworks.contract.wire import (
    PROTOCOL,
    BlocksChanged,
    Cancel,
    End,
    EndReason,
    Goodbye,
    Heartbeat,
    Hello,
    Leaving,
    Load,
    Message,
    Rejoin,
    SequenceOutput,
    StepOutput,
    Submit,
    TokenLogprobs,
    WireError,
    WorkerExited,
    decode_to_gateway,
    decode_to_worker,
    encode,
)

Decode = Callable[[bytes], Message]

CARD = Card(
    device="cpu: none",
    threads=2,
    dtype="bfloat16",
    weights="int8",
    weight_bytes=1 << 40,
    active_weight_bytes=1 << 36,
    kv_dtype="int8",
    kv_bytes_per_token=4096,
    kv_capacity_tokens=100_000,
    prefill_points=(PrefillPoint(128, 0, 0.25),),
    decode_points=(DecodePoint(1, 64, 0.125), DecodePoint(8, 64, 0.5)),
    prefill_base_s=0.001,
    prefill_per_token_s=0.002,
    prefill_per_pair_s=1e-9,
    decode_base_s=0.05,
    decode_per_sequence_s=0.001,
    decode_per_context_token_s=1e-7,
    watts=65.0,
)
KV = KVSpec("f" * 32, num_layers=28, num_kv_heads=8, head_dim=128, block_tokens=32, dtype="bfloat16")
SAMPLING = Sampling(max_tokens=16, temperature=0.5, seed=2**63 - 1, stop_token_ids=(1, 2), num_logprobs=0)
TO_GATEWAY: list[Message] = [
    Hello(PROTOCOL, "w0", 4242, "modèle", 4096, KV, CARD),
    Heartbeat(
        "w0",
        Load(
            running=1,
            waiting=2,
            free_blocks=3,
            total_blocks=4,
            steps=5,
            preemptions=6,
            draft_tokens=8,
            accepted_tokens=7,
        ),
    ),
    StepOutput(
        [
            SequenceOutput("a", [7, 8], [TokenLogprobs(-0.5, [7], [-0.5]), TokenLogprobs(-2.0, [], [])], 64),
            SequenceOutput("b", end=End(EndReason.FAILED, error="why", preemptions=3)),
            SequenceOutput("c", [9], end=End(EndReason.STOP, stop_token_id=9)),
            SequenceOutput("d", end=End(EndReason.REFUSED, error="leaving")),
        ]
    ),
    BlocksChanged("w0", added=[b"\x00" * 16, b"\xff" * 16], removed=[]),
    Leaving("w0"),
    Goodbye("w0"),
    WorkerExited("w0", "was killed by signal 9"),
    WorkerExited("w0", "exited with code 3: no memory", was_ready=False),
]
TO_WORKER: list[Message] = [
    Submit(Request("a", "m", [1, 2, 3], SAMPLING, Scenario.REALTIME, "tenant", "salt")),
    Submit(Request("b", "m", [], Sampling(max_tokens=1))),
    Submit(Request("c", "m", [1, 2, 3], SAMPLING, num_generated=2), publishes=True),
    Cancel("a"),
    Rejoin(),
]
CASES: list[tuple[Message, Decode]] = [(message, decode_to_gateway) for message in TO_GATEWAY]
CASES += [(message, decode_to_worker) for message in TO_WORKER]
each_frame = pytest.mark.parametrize(("message", "decode"), CASES, ids=[type(case[0]).__name__ for case in CASES])


@each_frame
def test_a_frame_arrives_as_it_was_sent(message: Message, decode: Decode) -> None:
    assert decode(encode(message)) == message


@each_frame
def test_a_truncated_frame_is_refused(message: Message, decode: Decode) -> None:
    frame = encode(message)
    for length in range(len(frame)):
        with pytest.raises(WireError):
            decode(frame[:length])


@each_frame
def test_a_frame_with_bytes_after_it_is_refused(message: Message, decode: Decode) -> None:
    with pytest.raises(WireError):
        decode(encode(message) + b"\x00")


@each_frame
def test_a_flipped_bit_gives_a_valid_message_or_a_wire_error_and_nothing_else(message: Message, decode: Decode) -> None:
    """No checksum here (ZeroMQ runs over TCP or within a machine); what must not happen is another exception."""
    random = Random(0)
    frame = encode(message)
    for bit in random.sample(range(len(frame) * 8), min(400, len(frame) * 8)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode(bytes(flipped))
        except WireError:
            continue
        assert decode(encode(decoded)) == decoded or decoded != decoded, bit


@each_frame
def test_a_newer_field_is_refused(message: Message, decode: Decode) -> None:
    newer = {**msgspec.msgpack.decode(encode(message)), "field_of_version_two": 1}
    with pytest.raises(WireError, match="field_of_version_two"):
        decode(msgspec.msgpack.encode(newer))


def test_a_hello_of_another_version_is_readable_so_that_it_can_be_refused_with_a_reason() -> None:
    hello = Hello(PROTOCOL + 1, "w0", 1, "m", 1, KV, CARD)
    decoded = decode_to_gateway(encode(hello))
    assert isinstance(decoded, Hello)
    assert decoded.protocol != PROTOCOL


def test_a_message_for_the_other_side_is_refused() -> None:
    for message in TO_GATEWAY:
        with pytest.raises(WireError, match="bad frame to the worker"):
            decode_to_worker(encode(message))
    for message in TO_WORKER:
        with pytest.raises(WireError, match="bad frame to the gateway"):
            decode_to_gateway(encode(message))


def test_random_bytes_are_refused() -> None:
    random = Random(0)
    for length in range(200):
        with pytest.raises(WireError):
            decode_to_gateway(random.randbytes(length))
        with pytest.raises(WireError):
            decode_to_worker(random.randbytes(length))


@pytest.mark.parametrize("decode", [decode_to_gateway, decode_to_worker])
def test_a_frame_that_is_nested_without_end_is_refused(decode: Decode) -> None:
    with pytest.raises(WireError, match="recursion"):
        decode(b"\x81\xa1x" + b"\x91" * 50_000)


def test_a_card_predicts_from_its_lines() -> None:
    """Powers of two, so that the sums are exact."""
    card = msgspec.structs.replace(
        CARD,
        prefill_base_s=1.0,
        prefill_per_token_s=0.5,
        prefill_per_pair_s=0.25,
        decode_base_s=1.0,
        decode_per_sequence_s=0.5,
        decode_per_context_token_s=0.25,
    )
    assert card.prefill_s(new_tokens=4, context_tokens=2) == 1.0 + 0.5 * 4 + 0.25 * 4 * (2 + 2)
    assert card.decode_s(batch=2, context_tokens=8) == 1.0 + 0.5 * 2 + 0.25 * 2 * 8
