"""How a journal's frames lie in a file, and how they are found again where some of them are damaged.

    4 bytes  MARK           no UTF-8 text holds its first two, so no tag and no name can look like a frame
    4 bytes  length         of the body, little endian
    8 bytes  checksum       xxh3, 64 bits, of the body
    length   body           MessagePack of one `contract.record.Frame`

Pure: bytes in, frames out. A frame that is not whole is not there; whether the rest of it is still being written, only
the caller can know.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec
import xxhash

from tokenworks.contract.record import Frame, Gap, Record

MARK: Final = b"\xfe\xffTJ"
MAX_BODY_BYTES: Final = 4 << 20
_HEADER: Final = struct.Struct("<4sIQ")
HEADER_BYTES: Final = _HEADER.size

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)


class Found(NamedTuple):
    """A whole frame, or a stretch in which there is none."""

    start: int
    end: int
    frame: Frame | None
    damage: str = ""  # why there is no frame


def encode_frame(frame: Frame) -> bytes:
    """Header and body; raises ValueError where the body is longer than any reader takes."""
    body = _encoder.encode(frame)
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a frame of {len(body)} bytes is longer than {MAX_BODY_BYTES}")
    return _HEADER.pack(MARK, len(body), xxhash.xxh3_64_intdigest(body)) + body


def find_frame(data: bytes, start: int) -> Found | None:
    """What lies at `start`: a frame, or a stretch without any up to the next one; None: nothing whole, so far.

    A cut frame is waited for (None) unless a whole one follows it.
    """
    end = _end_of_whole(data, start)
    if end:
        return _decoded(data, start, end)
    following = data.find(MARK, start + 1)
    while following >= 0 and not _end_of_whole(data, following):
        following = data.find(MARK, following + 1)
    return None if following < 0 else Found(start, following, None, "damaged")


def instant_ns(frame: Frame) -> int:
    """When it came to be: a record when it ended, since 1970."""
    if isinstance(frame, Record):
        return frame.started_ns + frame.e2e_ns
    return frame.until_ns if isinstance(frame, Gap) else frame.at_ns


def _end_of_whole(data: bytes, start: int) -> int:
    """Where the frame ends that begins at `start`; 0 where there is none, or not all of one."""
    if len(data) - start < HEADER_BYTES:
        return 0
    mark, length, checksum = _HEADER.unpack_from(data, start)
    end: int = start + HEADER_BYTES + length
    if mark != MARK or length > MAX_BODY_BYTES or end > len(data):
        return 0
    return end if xxhash.xxh3_64_intdigest(data[start + HEADER_BYTES : end]) == checksum else 0


def _decoded(data: bytes, start: int, end: int) -> Found:
    try:
        return Found(start, end, _decoder.decode(data[start + HEADER_BYTES : end]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Found(start, end, None, f"written by another version of this program: {error}")
