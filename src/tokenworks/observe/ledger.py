"""What anyone may ask of the ledger: between those who keep records and those who make figures of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from tokenworks.contract.config import CostSettings
from tokenworks.contract.kv import Tier
from tokenworks.contract.record import Costs, Gap, Incident, Record, WorkerUse

if TYPE_CHECKING:
    from tokenworks.observe.cell import Cell  # and NumPy with it, which whoever writes down a window need not have


class Window(NamedTuple):
    """From `start_ns` on, and before `end_ns`; since 1970."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end_ns - self.start_ns) / 1e9


DIMENSIONS = ("scenario", "tenant", "model", "version", "worker")
"""What cells are kept apart by; a request's worker is the one that ended its last sequence, "" where none had it."""

OK = "ok"
FAILED = "failed"
"""Stands for every outcome but `OK`."""
TAG = "tag:"
"""Before the key of a tag, where one stands in the place of a dimension."""


class WorkerStretch(msgspec.Struct, frozen=True):
    """One life of one worker, as far as it lies in a window: what came between two samples came evenly."""

    worker: str
    model: str
    version: str
    device: str
    from_ns: int
    until_ns: int
    use: WorkerUse  # of this stretch alone
    price_per_hour: float | None
    watts: float | None
    peak_flops: float
    peak_bytes_per_s: float
    running: float  # mean over the samples, as are the next two
    waiting: float
    used_blocks_share: float
    preemptions: int
    evictions: int  # prompts that missed a cached block which had given way to others
    before: WorkerUse = WorkerUse()  # of the same life until this stretch: amounts are rounded from its start on


class StoreStretch(msgspec.Struct, frozen=True):
    """One KV store, as far as it lies in a window: what it held lasted until its next sample, counts came evenly."""

    store: str
    byte_s: dict[Tier, float]  # held bytes times seconds
    used_bytes: dict[Tier, int]  # at the end
    limit_bytes: dict[Tier, int]
    hits: dict[Tier, int]
    evictions: dict[Tier, int]
    faults: dict[str, int]
    misses: int
    read_bytes_per_s: dict[Tier, float]  # of the samples the middle one; 0: the tier did not answer


class Ended(NamedTuple):
    """A record, and what it cost by the prices of its time."""

    record: Record
    costs: Costs


Attribute = str | int | float | bool


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A step of an application around the model call, as OpenTelemetry told of it."""

    trace_id: str
    span_id: str
    parent_span_id: str
    service: str
    name: str
    kind: str  # "server", "client", "internal", "producer", "consumer"
    started_ns: int
    duration_ns: int
    is_error: bool = False
    attributes: dict[str, Attribute] = {}


class Ledger(Protocol):
    """Open for reading. Every method raises LedgerError where the database cannot be read."""

    def cells(self, window: Window, by: str | None = None, where: Mapping[str, str] | None = None) -> dict[str, Cell]:
        """Cells of the requests that ended in a window, by a dimension ("" key: no grouping) or by "tag:KEY".

        `where` maps dimensions to the value wanted, and "tag:KEY" too; "" is no such tag. Of one question all tags are
        the same one. Exact to the second where single records are still kept, to the minute, then to the hour, where
        they are not.
        """

    def tags(self, window: Window) -> list[str]:
        """Keys of tags that requests of a window had, in order; of very many some."""

    def series(self, window: Window, step_ns: int, where: Mapping[str, str] | None = None) -> list[tuple[int, Cell]]:
        """Cells one after the other, by their start."""

    def records(
        self,
        window: Window,
        where: Mapping[str, str] | None = None,
        limit: int = 1000,
        *,
        slowest: bool = False,
        outcome: str = "",
    ) -> Iterator[Ended]:
        """Single records, the latest (or slowest by E2E) first; by a tag those alone that are still kept whole.

        `outcome`: only those that ended so; `FAILED`: all that did not end well.
        """

    def outcomes(self, window: Window) -> dict[str, int]:
        """How many of a window ended how."""

    def record(self, request_id: str) -> Ended | None:
        """The record of one request, by its id, by the id in its answer's body, or by its trace id."""

    def workers(self, window: Window) -> list[WorkerStretch]:
        """Where the workers' time went."""

    def worker_series(self, window: Window, step_ns: int) -> list[tuple[int, list[WorkerStretch]]]:
        """The same for each step as for a window of its own, by the step's start; steps are those of `series`."""

    def stores(self, window: Window) -> list[StoreStretch]:
        """What the stores held."""

    def prices(self, window: Window) -> list[tuple[int, CostSettings]]:
        """What was stated, from when on: what held when the window began, and every change in it; none is known of
        the time before the first."""

    def incidents(self, window: Window) -> list[Incident]:
        """What happened, in order."""

    def gaps(self, window: Window) -> list[Gap]:
        """Where records are missing."""

    def trace(self, trace_id: str) -> list[Ended]:
        """Every record of a trace, by start: an application may call a model many times."""

    def spans(self, trace_id: str) -> list[Span]:
        """Spans of others in this trace, by start; of very many the first ones."""

    def spans_of(self, trace_ids: Sequence[str]) -> dict[str, list[Span]]:
        """The same for many traces at once; a trace without any is left out."""

    def extent(self) -> Window | None:
        """From the first to the last record; None: there is none."""


def observed_window(window: Window, extent: Window | None, workers: Sequence[WorkerStretch]) -> Window:
    """The part of a window in which there was a system; the window itself where nothing is known of any."""
    starts = [stretch.from_ns for stretch in workers] + ([extent.start_ns] if extent else [])
    ends = [stretch.until_ns for stretch in workers] + ([extent.end_ns] if extent else [])
    if not starts:
        return window
    start_ns, end_ns = max(window.start_ns, min(starts)), min(window.end_ns, max(ends))
    return Window(start_ns, end_ns) if start_ns < end_ns else window


class OpenLedger(Ledger, Protocol):
    """One of somebody's own, to be closed when it is no longer asked."""

    def close(self) -> None:
        """Let go of the database."""
