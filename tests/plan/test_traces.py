"""Trace readers: both formats, coarse clocks, scaling, and errors that name the line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from tokenworks.plan.traces import Trace, TraceError, TraceRecord, read_trace, scale_trace, spread_ties

TRACES = Path(os.environ.get("TOKENWORKS_TRACES", Path(__file__).parents[3] / "shared" / "traces"))
MOONCAKE_ROWS = (
    '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
    "\n"
    '{"timestamp": 0, "input_length": 512, "output_length": 6, "hash_ids": [0]}\n'
    '{"timestamp": 2000, "input_length": 1025, "output_length": 7, "hash_ids": [0, 1, 2], "extra": true}\n'
)
AZURE_ROWS = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.6805900,396,0"
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace"
    path.write_bytes(text.encode())
    return path


def test_mooncake_rows_become_records_and_a_tie_spreads_to_the_next_time_stamp(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, MOONCAKE_ROWS))
    assert (trace.format, trace.block_tokens) == ("mooncake", 512)
    first, second, third = trace.records
    assert 0 <= first.arrival_s <= second.arrival_s < 2.0
    assert third == TraceRecord(2.0, 1025, 7, (0, 1, 2))
    assert (first.input_tokens, first.output_tokens, first.block_ids) == (700, 5, (0, 1))
    assert trace.span_s == 2.0


def test_azure_rows_become_records_that_start_at_zero(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, AZURE_ROWS))
    assert trace.format == "azure"
    assert [record.arrival_s for record in trace.records] == pytest.approx([0.0, 4.0])
    assert [(record.input_tokens, record.output_tokens) for record in trace.records] == [(374, 44), (396, 0)]


def test_azure_rows_with_a_zone_and_out_of_order_are_sorted(tmp_path: Path) -> None:
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:03+00:00,2,2\n2024-05-10 00:00:01.5+00:00,1,1\n"
    records = read_trace(write(tmp_path, rows)).records
    assert [(record.arrival_s, record.input_tokens) for record in records] == [(0.0, 1), (1.5, 2)]


@pytest.mark.parametrize("text", [MOONCAKE_ROWS, AZURE_ROWS, "\ufeff" + AZURE_ROWS])
def test_gzip_and_plain_read_the_same(tmp_path: Path, text: str) -> None:
    plain = read_trace(write(tmp_path, text))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_trace(packed) == plain


def test_the_seed_moves_ties_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, MOONCAKE_ROWS)
    assert read_trace(path, seed=1) == read_trace(path, seed=1)
    assert read_trace(path, seed=1).records[0].arrival_s != read_trace(path, seed=2).records[0].arrival_s
    assert read_trace(path, seed=1).records[2] == read_trace(path, seed=2).records[2]


def test_a_group_spreads_over_its_step_and_a_single_record_stays() -> None:
    records = [TraceRecord(arrival_s, 1, 1) for arrival_s in [0.0] * 50 + [100.0] + [200.0] * 50]
    arrivals_s = [record.arrival_s for record in spread_ties(records, 3.0, seed=0)]
    assert arrivals_s == sorted(arrivals_s)
    assert len(set(arrivals_s)) == 101
    assert max(arrivals_s[:50]) < 3.0
    assert arrivals_s[50] == 100.0
    assert 200.0 <= min(arrivals_s[51:]) <= max(arrivals_s[51:]) < 203.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no requests"),
        ("hello\n", "line 1 fits no known trace"),
        ("a,b,c\n1,2,3\n", "line 1 fits no known trace"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
        (AZURE_ROWS + "\n2023-11-16 18:15:51,1\n", "line 4: 2 cells where 3"),
        (AZURE_ROWS + "\nyesterday,1,2\n", "line 4: Invalid isoformat"),
        (AZURE_ROWS + "\n2023-11-16 18:15:51,many,2\n", "line 4: invalid literal"),
        (AZURE_ROWS + "\n2023-11-16 18:15:51,-1,2\n", "line 4: a length is negative"),
        (MOONCAKE_ROWS + '{"timestamp": 1}\n', "line 5: .*input_length"),
        (MOONCAKE_ROWS + '{"timestamp": 1, "input_\n', "line 5: "),
        (MOONCAKE_ROWS + '{"x": ' + "[" * 50_000 + "\n", "line 5: maximum recursion"),
        (
            MOONCAKE_ROWS + '{"timestamp": 1, "input_length": 512, "output_length": 1, "hash_ids": [1,2,3]}\n',
            "line 5: 3 hash_ids for 512 tokens",
        ),
    ],
)
def test_a_malformed_trace_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(write(tmp_path, text))


PACKED = gzip.compress(AZURE_ROWS.encode(), mtime=0)


@pytest.mark.parametrize(
    "raw",
    [PACKED[:-12], PACKED[:10] + b"\xff" + PACKED[11:], PACKED[:-8] + bytes(8), b"\xff\xfe\x00"],
    ids=["cut", "no deflate", "wrong checksum", "binary"],
)
def test_damaged_bytes_are_a_trace_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "trace"
    path.write_bytes(raw)
    with pytest.raises(TraceError, match=str(path)):
        read_trace(path)


def test_scaling_divides_time_and_multiplies_lengths_and_blocks() -> None:
    trace = Trace(format="mooncake", records=(TraceRecord(8.0, 1000, 10, (4, 5)), TraceRecord(9.0, 3, 1)))
    scaled = scale_trace(trace, speed=2.0, length=0.1)
    assert scaled.records == (TraceRecord(4.0, 100, 1, (4, 5)), TraceRecord(4.5, 1, 1))
    assert scaled.block_tokens == pytest.approx(51.2)


def test_rate_scaling_keeps_whole_conversations() -> None:
    records = tuple(TraceRecord(float(turn), 1536, 1, (0, turn % 100, 1000 + turn)) for turn in range(1000))
    kept = scale_trace(Trace(format="mooncake", records=records), rate=0.3, seed=3).records
    conversations = {record.block_ids[1] for record in kept}
    assert len(kept) == 10 * len(conversations)
    assert 15 <= len(conversations) <= 45  # 30 expected; fixed by the seed


def test_rate_scaling_without_blocks_samples_single_requests() -> None:
    records = tuple(TraceRecord(float(turn), 10, 1) for turn in range(1000))
    trace = Trace(format="azure", records=records)
    assert 250 <= len(scale_trace(trace, rate=0.3).records) <= 350  # fixed by the seed
    assert scale_trace(trace, rate=1.0) == trace


@pytest.mark.parametrize("bad", [{"speed": 0.0}, {"length": -1.0}, {"rate": 0.0}, {"rate": 1.5}])
def test_scales_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(TraceError, match="must be above 0"):
        scale_trace(Trace(format="azure", records=(TraceRecord(0.0, 1, 1),)), **bad)


def test_an_empty_trace_spans_nothing() -> None:
    assert Trace(format="azure", records=()).span_s == 0.0


def real_trace(name: str) -> Trace:
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"{path} is absent: point TOKENWORKS_TRACES to a directory of public traces")
    return read_trace(path)


def test_the_mooncake_conversation_trace_reads_whole_and_keeps_its_reuse() -> None:
    trace = real_trace("mooncake/conversation_trace.jsonl.gz")
    assert len(trace.records) == 12_031
    assert sum(record.input_tokens for record in trace.records) // 12_031 == 12_035
    busiest_second = max(map(len, by_second(trace).values()))
    assert busiest_second < 20  # as recorded, every third second has ten or more and the others none
    seen: set[int] = set()
    hits = sum(count_new_hits(record, seen) for record in trace.records)
    blocks = sum(len(record.block_ids) for record in trace.records)
    assert 0.33 < hits / blocks < 0.42  # the published reuse with an endless cache is 37 % of tokens


def by_second(trace: Trace) -> dict[int, list[TraceRecord]]:
    seconds: dict[int, list[TraceRecord]] = {}
    for record in trace.records:
        seconds.setdefault(int(record.arrival_s), []).append(record)
    return seconds


def count_new_hits(record: TraceRecord, seen: set[int]) -> int:
    hits = sum(block_id in seen for block_id in record.block_ids)
    seen.update(record.block_ids)
    return hits


def test_the_azure_conversation_trace_reads_whole() -> None:
    trace = real_trace("azure2023/AzureLLMInferenceTrace_conv.csv.gz")
    assert len(trace.records) == 19_366
    assert trace.span_s == pytest.approx(3501.72, abs=0.01)
    assert sum(record.output_tokens for record in trace.records) // 19_366 == 211
