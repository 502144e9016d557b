"""What `benchmarks/recording.py` switches on and off in a running gateway: all of recording, or one part of it.

A part is switched off by leaving out what it does, with everything around it as it is: where the next part needs what
it would have made, that is made once, before. So what parts take adds up to about what all takes, and not quite: what
one part leaves in the caches is free for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

from benchmarks.gateway import REPORT
from benchmarks.recording_parts import made, noted, worker
from tokenworks.gateway.http import exchange
from tokenworks.gateway.metrics import metrics, record_metrics
from tokenworks.gateway.pool import flights, samples
from tokenworks.gateway.pool.registry import Worker
from tokenworks.gateway.records import record, recorder
from tokenworks.observe.journal import writer

Seam = tuple[type | ModuleType, str, Callable[..., Any]]
"""A class or module, its function, and what stands there while the part is off."""

PARTS: Final = ("all", "notes", "report", "record", "metrics", "frame", "sync", "samples")


def switches(part: str, output_tokens: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """What switches a part on, and off."""
    seams = {
        "all": [*_UNNOTED, *_UNSAMPLED, (recorder.Recorder, "finish", _nothing)],
        "notes": [*_UNNOTED, (recorder.Recorder, "finish", _finish_another(output_tokens))],
        "report": [],  # the worker's part
        "record": [(record.Recording, "record", _another_record(output_tokens))],
        "metrics": [(record_metrics.RecordMetrics, "add_all", _nothing), (metrics, "costs_of", _nothing)],
        "frame": [(writer.Journal, "append", _nothing)],
        "sync": [(writer._Syncer, "_turn", _nothing)],
        "samples": _UNSAMPLED,
    }[part]
    usual = [(owner, name, getattr(owner, name)) for owner, name, _ in seams]
    return lambda: _set_all(usual), lambda: _set_all(seams)


def _set_all(attributes: Sequence[Seam]) -> None:
    for owner, name, value in attributes:
        setattr(owner, name, value)


class _Unrecorded(record.Recording):
    """Of a request that nothing is noted of."""

    is_understood = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]

    def __init__(self, *ignored: object) -> None:
        pass

    def placed(self, trail: object) -> None:
        pass

    def writes(self) -> None:
        pass


def _begin_unrecorded(self: exchange.Exchange, endpoint: str) -> None:
    self._recording = _Unrecorded()


def _send_unrecorded(self: flights.Flight, worker: Worker, held_tokens: int, now_ns: int) -> None:
    self.worker = worker


def _nothing(*ignored: object) -> None:
    pass


def _finish_another(output_tokens: int) -> Callable[..., None]:
    """A request's end, with the notes of one that ended before."""
    another = noted(worker(None), REPORT, output_tokens)

    def finish(self: recorder.Recorder, *ignored: object) -> None:
        self._add(another)

    return finish


def _another_record(output_tokens: int) -> Callable[..., Any]:
    [another] = made([noted(worker(None), REPORT, output_tokens)])
    return lambda *ignored: another


_UNNOTED: Final[list[Seam]] = [
    (exchange.Exchange, "begin_recording", _begin_unrecorded),
    (flights.Flight, "sent_to", _send_unrecorded),
]
_UNSAMPLED: Final[list[Seam]] = [(samples.Samples, "worker_heard", _nothing)]
