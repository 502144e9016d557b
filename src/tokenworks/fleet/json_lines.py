"""Log lines as JSON: one object a line, for whoever collects them.

Every line has `time` (RFC 3339, UTC), `level`, `part` (the process: gateway, w0, kv0, tokenworks, ...), `logger` and
`message`. What a line says of a request stands beside them under names of its own (`request_id`, `trace_id`, `span_id`,
`tenant`, ...): a logger hands it over as `extra={"fields": {...}}`, which the text format leaves out.

A log call must never fail and never cost much: what cannot be encoded is written as its text.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)
_FIXED: Final = frozenset({"time", "level", "part", "logger", "message", "exception"})


class JsonFormatter(logging.Formatter):
    """Formats records of one process."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line |= {name: value for name, value in fields.items() if value is not None and name not in _FIXED}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encoded(line)


def json_line(part: str, message: str, level: str = "info") -> str:
    """A line that no logger wrote: a child's plain output, or the supervisor's own words."""
    return _encoded({"time": datetime.now(UTC), "level": level, "part": part, "logger": "", "message": message})


def is_json_line(line: str) -> bool:
    """Whether a child's line is one of these already."""
    if not line.startswith('{"time":"'):
        return False
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def _encoded(line: dict[str, Any]) -> str:
    try:
        return _ENCODER.encode(line).decode()
    except (ValueError, TypeError, RecursionError):  # half of a surrogate pair, a key that is no text
        plain = {str(name): str(value).encode("utf-8", "replace").decode() for name, value in line.items()}
        return _ENCODER.encode(plain).decode()
