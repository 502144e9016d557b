"""Readers for recorded traffic: arrival instants, lengths and, where the trace has them, the prefix-sharing blocks.

Two public formats are recognised from their content, plain or gzip: Mooncake (JSON lines with `timestamp` in ms,
`input_length`, `output_length`, `hash_ids`, one id per 512-token block) and Azure (CSV with `TIMESTAMP`,
`ContextTokens`, `GeneratedTokens`). Both become the same `Trace`, which the load client replays and the simulator runs.

Invariants: records are sorted by arrival and the first recorded instant is 0; a block id stands for the same tokens
in every record, so equal leading ids are a shared prefix. Knows nothing of prompts, HTTP or time as it passes.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from tokenworks.contract.errors import ConfigError

MOONCAKE_BLOCK_TOKENS = 512
MOONCAKE_CLOCK_STEP_S = 3.0  # the published recorder rounds its time stamps down to this
AZURE_HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
GZIP_MAGIC = b"\x1f\x8b"

TraceFormat = Literal["mooncake", "azure"]


class TraceError(ConfigError):
    """The trace file cannot be read; the message names the line and what to do."""

    code = "trace_error"


class TraceRecord(msgspec.Struct, frozen=True):
    """One recorded request; `block_ids` is empty where the trace says nothing of its content."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()


class Trace(msgspec.Struct, frozen=True):
    """A recorded stretch of traffic; block i of a record covers tokens [i, i + 1) x `block_tokens` of its input."""

    format: TraceFormat
    records: tuple[TraceRecord, ...]
    block_tokens: float = MOONCAKE_BLOCK_TOKENS  # a fraction once lengths have been scaled

    @property
    def span_s(self) -> float:
        """Seconds from the first recorded instant to the last arrival."""
        return self.records[-1].arrival_s if self.records else 0.0


class _Line(NamedTuple):
    number: int
    text: str


class _MooncakeRow(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


_decode_mooncake = msgspec.json.Decoder(_MooncakeRow).decode


def read_trace(path: Path, *, seed: int = 0) -> Trace:
    """Read a trace of either format.

    `seed` places the requests inside the steps of a coarse recorder clock (see `spread_ties`).
    Raises TraceError for anything that is not a well-formed trace and OSError where the file cannot be opened.
    """
    lines = [_Line(number, text) for number, text in enumerate(_read_text(path).splitlines(), 1) if text.strip()]
    if not lines:
        raise TraceError(f"{path} holds no requests: give a Mooncake .jsonl or an Azure .csv trace")
    trace_format = _recognise(path, lines[0])
    if trace_format == "azure":
        return Trace(format="azure", records=_rebase(_parse_rows(path, lines[1:], _azure_record)))
    records = _rebase(_parse_rows(path, lines, _mooncake_record))
    return Trace(format="mooncake", records=tuple(spread_ties(records, MOONCAKE_CLOCK_STEP_S, seed)))


def spread_ties(records: Iterable[TraceRecord], step_s: float, seed: int) -> Iterator[TraceRecord]:
    """Spread records that share one time stamp over the recorder's clock step, in file order.

    The instants are uniform draws, sorted, which is what Poisson arrivals look like once their number is known.
    A group never reaches past the next time stamp. Replayed as one burst, tail TTFT would be an artefact.
    """
    rng = random.Random(f"{seed}/ties")
    groups = [list(group) for _, group in groupby(records, key=lambda record: record.arrival_s)]
    next_starts_s = [group[0].arrival_s for group in groups[1:]] + [float("inf")]
    for group, next_start_s in zip(groups, next_starts_s, strict=True):
        start_s = group[0].arrival_s
        window_s = min(step_s, next_start_s - start_s) if len(group) > 1 else 0.0
        offsets_s = sorted(rng.uniform(0.0, window_s) for _ in group)
        for record, offset_s in zip(group, offsets_s, strict=True):
            yield msgspec.structs.replace(record, arrival_s=start_s + offset_s)


def scale_trace(trace: Trace, *, speed: float = 1.0, length: float = 1.0, rate: float = 1.0, seed: int = 0) -> Trace:
    """Fit a trace to a smaller machine while its ratios and its prefix reuse stay.

    `speed` divides every instant; `length` multiplies inputs, outputs and the block size alike; `rate` (0 to 1) keeps
    that share of the conversations, each one whole (two records are one conversation when they share the first two
    blocks: the first block alone is often a system prompt that every request carries).
    """
    if not (speed > 0 and length > 0 and 0 < rate <= 1):
        raise TraceError(f"speed {speed} and length {length} must be above 0 and rate {rate} in (0, 1]")
    kept = (record for index, record in enumerate(trace.records) if _draw(record, index, seed) < rate)
    records = tuple(_scale_record(record, speed, length) for record in kept)
    return Trace(format=trace.format, records=records, block_tokens=trace.block_tokens * length)


def _draw(record: TraceRecord, index: int, seed: int) -> float:
    """A number in [0, 1) that is the same for all requests of a conversation."""
    conversation = f"conversation/{record.block_ids[:2]}" if len(record.block_ids) > 1 else f"record/{index}"
    return random.Random(f"{seed}/{conversation}").random()


def _scale_record(record: TraceRecord, speed: float, length: float) -> TraceRecord:
    return TraceRecord(
        arrival_s=record.arrival_s / speed,
        input_tokens=max(1, round(record.input_tokens * length)),
        output_tokens=max(1, round(record.output_tokens * length)),
        block_ids=record.block_ids,
    )


def _read_text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path} is a damaged gzip file ({error}): copy it again") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} is not text ({error}): give a .jsonl or .csv trace, plain or .gz") from error


def _recognise(path: Path, first: _Line) -> TraceFormat:
    if first.text.lstrip().startswith("{"):
        return "mooncake"
    if [name.strip() for name in first.text.split(",")] == AZURE_HEADER:
        return "azure"
    raise TraceError(
        f"{path} line {first.number} fits no known trace: expected JSON lines with timestamp, input_length, "
        f"output_length, hash_ids (Mooncake) or a CSV that starts with {','.join(AZURE_HEADER)} (Azure)"
    )


def _parse_rows(path: Path, lines: Iterable[_Line], parse: Callable[[str], TraceRecord]) -> list[TraceRecord]:
    records = []
    for line in lines:
        try:
            records.append(_checked(parse(line.text)))
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise TraceError(f"{path} line {line.number}: {error}. Correct or delete this line.") from error
    return records


def _checked(record: TraceRecord) -> TraceRecord:
    if record.input_tokens < 0 or record.output_tokens < 0:
        raise ValueError("a length is negative")
    blocks_wanted = -(-record.input_tokens // MOONCAKE_BLOCK_TOKENS)
    if record.block_ids and abs(len(record.block_ids) - blocks_wanted) > 1:
        raise ValueError(
            f"{len(record.block_ids)} hash_ids for {record.input_tokens} tokens, where blocks of "
            f"{MOONCAKE_BLOCK_TOKENS} tokens make {blocks_wanted}"
        )
    return record


def _mooncake_record(text: str) -> TraceRecord:
    row = _decode_mooncake(text)
    return TraceRecord(row.timestamp / 1000.0, row.input_length, row.output_length, row.hash_ids)


def _azure_record(text: str) -> TraceRecord:
    cells = text.split(",")
    if len(cells) != len(AZURE_HEADER):
        raise ValueError(f"{len(cells)} cells where {len(AZURE_HEADER)} are expected ({','.join(AZURE_HEADER)})")
    instant = datetime.fromisoformat(cells[0].strip())
    zoned = instant if instant.tzinfo else instant.replace(tzinfo=UTC)  # local time would jump with daylight saving
    return TraceRecord(zoned.timestamp(), int(cells[1]), int(cells[2]))


def _rebase(records: list[TraceRecord]) -> tuple[TraceRecord, ...]:
    """Sort by arrival (stable) and let the first one arrive at 0."""
    if not records:
        raise TraceError("the trace has a header and no requests")
    start_s = min(record.arrival_s for record in records)
    moved = (msgspec.structs.replace(record, arrival_s=record.arrival_s - start_s) for record in records)
    return tuple(sorted(moved, key=lambda record: record.arrival_s))
