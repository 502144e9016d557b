"""The models that the engines load: the checkpoint itself, and the peers' conversions of it, made once and kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.engine.process import TAIL_CHARACTERS
from benchmarks.engine.variants import OURS, ROOT, Variant


def ensure_checkpoint(cache: Path, shape: str) -> Path:
    """A checkpoint of random weights in `shape`, in the cache; raises ConfigError for an unknown shape."""
    from tokenworks.engine.random_checkpoint import write_random_checkpoint

    out = cache / "checkpoints" / shape
    if not (out / "config.json").exists():
        print(f"writing a random checkpoint of shape {shape} to {out}", file=sys.stderr, flush=True)
        partial = _partial(out)
        write_random_checkpoint(partial, shape)
        partial.rename(out)
    return out


def model_path(variant: Variant, checkpoint: Path, cache: Path) -> Path:
    """What the variant loads; converts it the first time. Raises ConversionError."""
    if variant.engine in (OURS, "vllm"):
        return checkpoint
    suffix = ".gguf" if variant.engine == "llamacpp" else ""
    out = cache / "peer-models" / key(checkpoint) / f"{variant.engine}-{variant.format}{suffix}"
    if not out.exists():
        print(f"converting {checkpoint} for {variant.title}: {out}", file=sys.stderr, flush=True)
        partial = _partial(out)
        _convert(conversion(variant, checkpoint, partial))
        partial.rename(out)
    return out


class ConversionError(Exception):
    """A peer's converter failed; the message is its last words."""


def _convert(command: list[str]) -> None:
    """Run a converter quietly: they warn at length where nothing is wrong."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ConversionError(f"exit code {done.returncode}: {' '.join(done.stderr[-TAIL_CHARACTERS:].split())}")


def conversion(variant: Variant, checkpoint: Path, out: Path) -> list[str]:
    """The command that writes the peer's form of the checkpoint to `out`."""
    if variant.engine == "llamacpp":
        module = "benchmarks.engine.peers.to_gguf"
        return [str(variant.python), "-m", module, str(checkpoint), str(out), variant.format]
    export = [str(variant.python.parent / "optimum-cli"), "export", "openvino", "--task", "text-generation-with-past"]
    return [*export, "-m", str(checkpoint), "--weight-format", variant.format, str(out)]


def key(checkpoint: Path) -> str:
    """Names a checkpoint's conversions: its folder's name, and a hash of its config and of its files' sizes and times.

    Contents are not read: gigabytes for every run. A file that is replaced has another time.
    """
    digest = hashlib.blake2b((checkpoint / "config.json").read_bytes(), digest_size=6)
    for path in sorted(checkpoint.glob("*.safetensors")):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return f"{checkpoint.name}-{digest.hexdigest()}"


def _partial(out: Path) -> Path:
    """Where `out` is written until it is whole; what a broken-off run left there is removed."""
    partial = out.with_name(f"partial-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
    return partial
