"""The best peaks that this machine has ever shown, kept from one start of a worker to the next.

A worker that starts beside others, or beside anybody else's work, measures its device too slow, and every MFU and MBU
that rests on it would be too high. Nothing can make a device look too fast, so the best of all starts is the truest.
Entries belong to a device as it was asked: another processor, number of threads, dtype or library is another entry.

Nothing depends on the book: one that is not there, damaged or not to be written costs a worse figure, and no start.
Workers that write it at the same moment may forget each other's entry until the next start.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import msgspec
import torch

from tokenworks.contract.card import Card
from tokenworks.engine.native import library
from tokenworks.worker.peaks import Peaks

log = logging.getLogger(__name__)

_decoder: Final = msgspec.json.Decoder(dict[str, Peaks])


def with_best_peaks(card: Card, file: Path) -> Card:
    """The card with the best peaks known of its device, which are in the book afterwards."""
    name, book = _name(card), _read(file)
    known, measured = book.get(name, Peaks()), Peaks(card.peak_flops, card.peak_bytes_per_s)
    best = Peaks(*map(max, known, measured))
    if best != known:
        _write(file, book | {name: best})
    return msgspec.structs.replace(card, peak_flops=best.flops, peak_bytes_per_s=best.bytes_per_s)


def _name(card: Card) -> str:
    reader = "portable" if library.missing() else "native"
    return (
        f"{card.device}, {card.threads} of {os.cpu_count()} threads, {card.dtype}, torch {torch.__version__}, {reader}"
    )


def _read(file: Path) -> dict[str, Peaks]:
    try:
        return _decoder.decode(file.read_bytes())
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return {}


def _write(file: Path, book: dict[str, Peaks]) -> None:
    """Replaced as a whole, so that nobody reads half a book."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(book))
        part.replace(file)
    except OSError as error:
        log.info("peaks cannot be kept in %s (%s): the next start may find worse ones", file, error.strerror)
