"""Quantised weights on disk, so that a checkpoint is rounded once and read small from then on.

One file for each part that is read together (a layer, the head), written beside its place and moved there when whole:
workers that start at once write the same bytes, and the last one wins. A file holds the integers (four bits two a
byte), the scales, a digest over both, and what the source's tensors add to the model's fingerprint, so that the source
itself need not be read. The folder's name covers the source's files (name, size, inode, times of change of content and
of status) and its config, the bits and the version of the rounding: a checkpoint that was touched is another folder.

Invariant: nothing here stops a start. What cannot be read is made again, what cannot be written is logged.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tokenworks.engine.checkpoint import digest
from tokenworks.engine.kernels.quantized import pack_int4, unpack_int4
from tokenworks.engine.quantize import QUANTIZER_VERSION, QuantizedWeight

log = logging.getLogger(__name__)

_PART: Final = ".part"
_LEFT_S: Final = 3600.0  # nobody writes one file for so long: who began it was killed


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file says of one matrix."""

    bits: int
    group_size: int
    digest: str  # over the stored integers and scales
    source: str  # the source tensor's share of the model's fingerprint


class QuantizedCache:
    """The parts of one checkpoint at one number of bits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._can_write = True

    def load(self, part: str, names: Sequence[str]) -> tuple[dict[str, QuantizedWeight], dict[str, str]] | None:
        """The part's matrices, and their sources' digests; None where the part is not there or not whole."""
        path = self._path(part)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                entries = msgspec.json.decode((file.metadata() or {})["entries"], type=dict[str, Entry])
                weights = {
                    name: _restore(entries[name], file.get_tensor(f"{name}.values"), file.get_tensor(f"{name}.scales"))
                    for name in names
                }
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
            return None
        return weights, {name: entries[name].source for name in names}

    def store(self, part: str, weights: dict[str, QuantizedWeight], sources: dict[str, str]) -> None:
        """Keep a part; a full disk or a folder that may not be written to is logged once."""
        if not self._can_write:
            return
        try:
            _write_whole(self._path(part), _serialize(weights, sources))
        except OSError as error:
            self._can_write = False
            log.warning("quantised weights are not kept, the next start makes them again: %s", error)

    def _path(self, part: str) -> Path:
        return self._folder / f"{part}.safetensors"


def cache_key(files: Sequence[Path], config: Path, bits: int) -> str:
    """32 hex digits that change when a file of the checkpoint may have changed, or when rounding does."""
    parts = [f"{QUANTIZER_VERSION} {bits}", config.read_text(encoding="utf-8")]
    for file in files:
        stat = file.stat()
        parts.append(f"{file.name} {stat.st_size} {stat.st_ino} {stat.st_mtime_ns} {stat.st_ctime_ns}")
    return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())


def _serialize(weights: dict[str, QuantizedWeight], sources: dict[str, str]) -> bytes:
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Entry] = {}
    for name, weight in weights.items():
        values = pack_int4(weight.values) if weight.bits == 4 else weight.values
        tensors |= {f"{name}.values": values, f"{name}.scales": weight.scales}
        content = digest(values) + digest(weight.scales)
        entries[name] = Entry(weight.bits, weight.group_size, content, sources[name])
    return save(tensors, {"entries": msgspec.json.encode(entries).decode()})


def _restore(entry: Entry, values: Tensor, scales: Tensor) -> QuantizedWeight:
    if digest(values) + digest(scales) != entry.digest:
        raise ValueError("its content is not what was written")
    unpacked = unpack_int4(values) if entry.bits == 4 else values
    return QuantizedWeight(unpacked, scales, entry.bits, entry.group_size)


def _remove_left(folder: Path) -> None:
    """Take away what killed processes left half written: it may be gigabytes, and grows with each of them."""
    for path in folder.glob(f"*{_PART}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT_S:
                path.unlink()


def _write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary file and move it into place; nothing is left where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent)
    descriptor, temporary = tempfile.mkstemp(prefix=path.name, suffix=_PART, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
