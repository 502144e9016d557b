"""What each part of recording takes of the processor, by itself: with everything in its caches, and with nothing.

One process, no sockets: requests are noted as the gateway notes them (one sequence, streamed, one leg, with its
worker's report), and made into records, metrics and frames, `BATCH` at a time, as a busy gateway does. `hot` does
each part again and again; `cold` sweeps `SWEPT_BYTES` of memory before each (each request's notes, each batch of the
rest), so that code and data come from the last level of the cache: a busy gateway lies between the two, and which part
takes what of it is told by `benchmarks/recording.py --part`. Processor time, the least of many rounds.

    python -m benchmarks.recording_parts [--output-tokens 16,64,211] [--price 2.5] [--rounds 200]
"""

from __future__ import annotations

import argparse
import gc
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import xxhash

from benchmarks.gateway import REPORT
from tokenworks.cli.reference import _NothingYet
from tokenworks.contract import wire
from tokenworks.contract.card import Card
from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.record import Record, SequenceReport
from tokenworks.contract.request import Scenario
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.gateway.keys.tenants import Caller
from tokenworks.gateway.metrics.metrics import Metrics
from tokenworks.gateway.pool.legs import Sending, Trail
from tokenworks.gateway.pool.registry import Worker
from tokenworks.gateway.process import COLLECTED_AT_ONCE
from tokenworks.gateway.records.record import Recording
from tokenworks.gateway.records.recorder import Recorder
from tokenworks.observe.journal.frames import encode_frame

BATCH: Final = 64
"""Requests that end within one `flush_s`, 50 ms, of a busy gateway; 25, where answers are as long as in chats."""
SWEPT_BYTES: Final = 8 << 20
CALLER: Final = Caller("acme")
GAP_US: Final = 8_000
Found = TypeVar("Found")


def main() -> None:
    """Print a table for each length of answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-tokens", default="16,64,211")
    parser.add_argument("--price", type=float, help="of the worker's card, an hour; none: nothing costs anything")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    gc.freeze()
    gc.set_threshold(COLLECTED_AT_ONCE, *gc.get_threshold()[1:])  # as in a gateway
    for tokens in map(int, options.output_tokens.split(",")):
        hot = measured(tokens, options.price, options.rounds, lambda: None)
        cold = measured(tokens, options.price, max(options.rounds // 10, 3), Sweep())
        print(f"{tokens} output tokens; microseconds a request, in the caches and out of them")
        for part, spent_us in hot.items():
            print(f"  {part:8} {spent_us:6.2f} {cold[part]:7.2f}")
        print(f"  {'all':8} {sum(hot.values()):6.2f} {sum(cold.values()):7.2f}", flush=True)


class Sweep:
    """Drives everything else out of the caches that a core has of its own."""

    def __init__(self) -> None:
        self._memory = bytes(bytearray(SWEPT_BYTES))

    def __call__(self) -> None:
        xxhash.xxh3_64_intdigest(self._memory)


def measured(tokens: int, price: float | None, rounds: int, sweep: Callable[[], object]) -> dict[str, float]:
    """Microseconds a request of each part, the least of all rounds."""
    bench = Bench(tokens, price)
    turns = [bench.turn(sweep) for _ in range(rounds)]
    least = {part: min(turn[part] for turn in turns) / BATCH / 1e3 for part in turns[0]}
    least["report"] -= least.pop("bare")
    return least


class Bench:
    """A gateway's recording, without the gateway."""

    def __init__(self, tokens: int, price: float | None) -> None:
        self._tokens = tokens
        self._worker = worker(price)
        self._metrics = Metrics(_NothingYet())
        self._with_report = last_frame(REPORT)
        self._without = last_frame(None)

    def turn(self, sweep: Callable[[], object]) -> dict[str, int]:
        """Nanoseconds of each part for a batch."""
        told_ns, reports = clocked(lambda: told(self._with_report), sweep)
        bare, _ = clocked(lambda: told(self._without), sweep)
        reported = reports[0]
        noting_ns, recordings = clocked(lambda: noted(self._worker, reported, self._tokens), sweep)
        each = iter(recordings)
        tokens_ns, _ = clocked(lambda: note_gaps(next(each), self._tokens), sweep)
        making_ns, records = together(lambda: made(recordings), sweep)
        self._metrics.observe_records(records)
        counting_ns, _ = together(self._metrics._count_records, sweep)
        writing_ns, _ = together(lambda: [encode_frame(record) for record in records], sweep)
        return {
            "bare": bare,
            "report": told_ns,
            "notes": noting_ns,
            "tokens": tokens_ns,
            "record": making_ns,
            "metrics": counting_ns,
            "frame": writing_ns,
        }


def clocked(call: Callable[[], Found], sweep: Callable[[], object]) -> tuple[int, list[Found]]:
    """What a call takes that comes between other work, a batch of times."""
    spent_ns, found = 0, []
    for _ in range(BATCH):
        sweep()
        began_ns = time.perf_counter_ns()
        found.append(call())
        spent_ns += time.perf_counter_ns() - began_ns
    return spent_ns, found


def together(call: Callable[[], Found], sweep: Callable[[], object]) -> tuple[int, Found]:
    """What a call takes that does a batch."""
    sweep()
    began_ns = time.thread_time_ns()
    found = call()
    return time.thread_time_ns() - began_ns, found


def worker(price: float | None) -> Worker:
    """One that says hello and nothing else."""
    card = Card("made up", 1, "float32", "float32", 1, 1, "float32", 1, 1, (), (), 0, 0, 0, 0, 0, 0, price)
    spec = KVSpec("f" * 64, 1, 1, 1, 32, "float32")
    return Worker(b"w0", wire.Hello(wire.PROTOCOL, "w0", 1, "bench", 1 << 16, spec, card), 0.0)


def last_frame(reported: SequenceReport | None) -> bytes:
    """What a worker sends with the last token."""
    output = SequenceOutput("cmpl-0123456789abcdef-0", [17], end=End(EndReason.LENGTH, report=reported))
    return wire.encode(wire.StepOutput([output]))


def told(frame: bytes) -> SequenceReport | None:
    """What a worker's last frame says that it took."""
    message = wire.decode_to_gateway(frame)
    assert isinstance(message, wire.StepOutput)
    assert message.outputs[0].end is not None
    return message.outputs[0].end.report


def noted(served_by: Worker, reported: SequenceReport | None, tokens: int) -> Recording:
    """All that is noted of a request that has ended, but for its tokens; in the order in which a gateway does it.

    Of the clock readings those that are there for the record; the others the gateway makes anyway.
    """
    now_ns = time.monotonic_ns()
    recording = Recording("0123456789abcdef01234567", "/v1/completions", None, now_ns)
    recording.caller = CALLER
    recording.received_ns = time.monotonic_ns()
    recording.is_understood = True
    recording.is_stream = True
    recording.scenario = Scenario.ONLINE
    recording.tags = {}
    recording.tokenise_ns = time.monotonic_ns()
    recording.tokenised_ns = time.monotonic_ns()
    recording.answer_id, recording.num_sequences, recording.prompt_tokens = "cmpl-0123456789abcdef", 1, 1000
    trail = Trail(now_ns + 50_000)
    recording.placed(trail)
    sending = Sending(served_by, 0, "whole", "only worker", now_ns + 60_000)
    sending.handed_tokens = sending.cached_tokens = 0
    trail.sendings.append(sending)
    sending.predicted_ns = GAP_US
    sending.first_ns = sending.sent_ns
    sending.found_tokens = 0
    recording.writes()
    recording.write_ns = now_ns + 950_000
    sending.end(now_ns + 900_000, "ok", reported)
    trail.ended(0, now_ns + 900_000)
    recording.asked_ns = now_ns
    recording.output_tokens = tokens
    recording.finish_reasons = ["length"]
    recording.ttft_ns = GAP_US
    recording.ended("ok", 200, now_ns + 1_000_000)
    return recording


def note_gaps(recording: Recording, tokens: int) -> None:
    """What is noted of each token after the first."""
    recording.gaps_us = array("I")
    note = recording.gaps_us.append
    for _ in range(tokens - 1):
        note(GAP_US)


def made(recordings: Sequence[Recording]) -> list[Record]:
    """What they leave."""
    return Recorder("gateway:8000", "bench", CostSettings(), [])._records(recordings)


if __name__ == "__main__":
    main()
