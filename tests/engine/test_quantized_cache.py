"""Quantised weights on disk: found again, never stale, never trusted where damaged, never a reason not to start."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tokenworks.contract.config import EngineSettings
from tokenworks.contract.errors import CheckpointError, ConfigError
from tokenworks.engine.build import build_engine
from tokenworks.engine.checkpoint import Checkpoint
from tokenworks.engine.engine import Engine
from tokenworks.engine.linear import Linear
from tokenworks.engine.scoring import logits_after_each

TOKENS = list(range(40))
each_kind = pytest.mark.parametrize("kind", ["int8", "int4"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where quantised weights will lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenworks" / "quantized"


@pytest.fixture
def directory(references: Any, tmp_path: Path) -> Path:
    """A sharded checkpoint of our own."""
    return shutil.copytree(references("qwen3-tied").directory, tmp_path / "checkpoint")


def load(directory: Path, kind: str = "int8") -> Engine:
    settings = EngineSettings(dtype="float32", quantize=kind, kv_bytes=1 << 20, block_tokens=8)  # type: ignore[arg-type]
    return build_engine(directory, settings, 1, lambda done, total: None)


def logits(engine: Engine) -> torch.Tensor:
    return logits_after_each(engine.model, engine.spec, TOKENS)


def parts(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def matrices_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the matrices that are read from the checkpoint's own files from now on."""
    names: list[str] = []
    original = Checkpoint.read

    def read(self: Checkpoint, shapes: dict[str, tuple[int, ...]]) -> Any:
        names.extend(name for name, shape in shapes.items() if len(shape) == 2)
        return original(self, shapes)

    monkeypatch.setattr(Checkpoint, "read", read)
    return names


@each_kind
def test_the_second_start_reads_the_cache_and_is_the_same(
    kind: str, directory: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(directory, kind)
    assert len(parts(cache)) == 7  # attention and feed-forward of three layers, and the head
    names = matrices_read(monkeypatch)
    second = load(directory, kind)
    assert set(names) == {"model.embed_tokens.weight"}  # the table that tokens are looked up in stays float
    assert second.spec.fingerprint == first.spec.fingerprint
    assert torch.equal(logits(second), logits(first))


def test_kinds_do_not_meet(directory: Path, cache: Path) -> None:
    prints = {kind: load(directory, kind).spec.fingerprint for kind in ("none", "int8", "int4")}
    assert len(set(prints.values())) == 3
    assert {kind: load(directory, kind).spec.fingerprint for kind in prints} == prints
    assert len(list(cache.iterdir())) == 2


def test_four_bits_keep_the_head_at_eight(directory: Path, cache: Path) -> None:
    model = load(directory, "int4").model
    assert not isinstance(model.head, Linear)
    assert not isinstance(model.layers[0].qkv, Linear)
    assert (model.head.bits, model.layers[0].qkv.bits) == (8, 4)


def test_a_changed_checkpoint_never_meets_the_old_cache(directory: Path, cache: Path) -> None:
    before = load(directory)
    shard = next(path for path in directory.glob("*.safetensors") if any("mlp.up" in name for name in load_file(path)))
    tensors = load_file(shard)
    name = next(name for name in tensors if "mlp.up" in name)
    tensors[name] = tensors[name] + 1e-3
    times = shard.stat()
    save_file(tensors, shard, metadata={"format": "pt"})
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # a copy may carry the old time and size over
    assert shard.stat().st_size == times.st_size
    after = load(directory)
    assert after.spec.fingerprint != before.spec.fingerprint
    assert not torch.equal(logits(after), logits(before))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def strip(path: Path) -> None:
    save_file(load_file(path), path)  # the same tensors, without what is said of them


def mistake(path: Path) -> None:
    save_file(load_file(path), path, metadata={"entries": json.dumps({"x": 1})})


DAMAGE = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "stripped": strip,
    "mistaken": mistake,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_part_is_reported_and_made_again(
    kind: str, directory: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load(directory)
    whole = [path.read_bytes() for path in parts(cache)]
    DAMAGE[kind](parts(cache)[1])
    with caplog.at_level(logging.WARNING):
        found = load(directory)
    assert len(caplog.messages) == 1
    assert "is damaged" in caplog.messages[0]
    assert found.spec.fingerprint == expected.spec.fingerprint
    assert torch.equal(logits(found), logits(expected))
    assert [path.read_bytes() for path in parts(cache)] == whole


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writing more than this to a file fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_killed_start_left_half_written_goes_and_what_another_one_writes_stays(
    directory: Path, cache: Path
) -> None:
    load(directory)
    (folder,) = cache.iterdir()
    parts(cache)[0].unlink()
    (folder / "left.part").write_bytes(b"half")
    (folder / "writing.part").write_bytes(b"half")
    os.utime(folder / "left.part", (0, 0))
    load(directory)
    assert [path.name for path in folder.glob("*.part")] == ["writing.part"]


def test_a_full_disk_is_a_warning_and_leaves_nothing_half_written(
    directory: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(directory, "none")  # what starting writes besides (compiled kernels) is written
    load(directory)
    shutil.rmtree(cache)
    with caplog.at_level(logging.WARNING), file_size_limit(2000):
        engine = load(directory)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "quantised weights are not kept, the next start makes them again"
    ]
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert torch.equal(logits(engine), logits(load(directory)))


def test_a_cache_folder_that_cannot_be_made_is_a_warning(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert logits(load(directory)).isfinite().all()
    assert len(caplog.messages) == 1


def start(directory: Path, barrier: Any, results: Any) -> None:
    barrier.wait()
    engine = load(directory)
    results.put((engine.spec.fingerprint, logits(engine).numpy().tobytes()))


@pytest.mark.slow
def test_workers_that_start_at_once_agree(directory: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=start, args=(directory, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    engine = load(directory)
    assert found == {(engine.spec.fingerprint, logits(engine).numpy().tobytes())}
    assert [path for path in cache.rglob("*.part*") if path.is_file()] == []


def test_weights_that_are_not_numbers_are_refused(directory: Path, cache: Path) -> None:
    shard = next(path for path in directory.glob("*.safetensors") if any("mlp.up" in name for name in load_file(path)))
    tensors = load_file(shard)
    next(tensor for name, tensor in tensors.items() if "mlp.up" in name)[0, 0] = torch.nan
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="mlp.up_proj.weight holds NaN"):
        load(directory)


def test_columns_that_no_group_divides_stay_floats(make_reference: Any, tmp_path: Path, cache: Path) -> None:
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=512, hidden_size=48, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(tmp_path / "narrow")
    layer = load(tmp_path / "narrow").model.layers[0]
    assert isinstance(layer.qkv, Linear)
    assert not isinstance(layer.feed_forward.down, Linear)


def test_a_checkpoint_that_is_quantised_already_is_not_rounded_again(directory: Path, cache: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="quantised already: leave out --quantize int8"):
        load(directory)
