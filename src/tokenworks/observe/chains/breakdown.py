"""What the dependencies of an application came to, over many traces that pass through a model call.

What a span says of a cache: `tokenworks.cache.hit` or `cache.hit`, a bool (OpenTelemetry's conventions have no name for
it; the second is Sentry's). Fetching from the origin is what the children of a miss do. A zone is
`cloud.availability_zone` of the service, or `tokenworks.peer.zone` on a call to something that sends no spans.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from tokenworks.contract.record import Record
from tokenworks.observe.chains.chain import held_ns
from tokenworks.observe.chains.critical_path import Tree, critical_path, end_ns, tree_of
from tokenworks.observe.chains.limits import MAX_TRACES
from tokenworks.observe.chains.own_spans import spans_of
from tokenworks.observe.ledger import Attribute, Ledger, Span, Window
from tokenworks.observe.sketch import Sketch

TAIL: Final = 0.01
"""The slowest share of traces, whose mean path is shown beside P99."""
MAX_ROWS: Final = 200  # names of spans are a stranger's: beyond the weightiest ones they share a row
OTHERS: Final = "(others)"
_HITS: Final = ("tokenworks.cache.hit", "cache.hit")
_ZONE: Final = "cloud.availability_zone"
_PEER_ZONE: Final = "tokenworks.peer.zone"


class Dependency(msgspec.Struct, frozen=True):
    """What the spans of one name of one service came to. Shares are of 1; None: nobody said."""

    service: str
    name: str
    count: int
    error_rate: float
    p50_s: float
    p99_s: float
    critical_share: float  # of the time of all traces
    tail_share: float  # of the time of the slowest traces
    tail_s: float  # the same, in seconds of a trace's mean
    hit_rate: float | None = None
    origin_p50_s: float | None = None
    origin_p99_s: float | None = None
    cross_zone_share: float | None = None  # of calls with both zones known


class Breakdown(msgspec.Struct, frozen=True):
    """What the dependencies of many traces came to, the weightiest in the tail first."""

    traces: int
    incomplete: int  # with spans whose parent is missing
    requests: int  # looked at, those without spans of others included
    p50_s: float | None
    p99_s: float | None
    tail_traces: int
    rows: list[Dependency]


def breakdown(ledger: Ledger, window: Window, zone: str = "", limit: int = MAX_TRACES) -> Breakdown:
    """The latest `limit` requests' traces, as far as others sent spans for them. Raises LedgerError.

    A model call that ended before the window counts as the time of the span that called it.
    """
    records = [ended.record for ended in ledger.records(window, limit=limit)]
    calls: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.trace_id:
            calls[record.trace_id].append(record)
    chains = _Chains()
    for trace_id, told in ledger.spans_of(list(calls)).items():
        own = {span.span_id: span for record in calls[trace_id] for span in spans_of(record, zone)}
        others = [span for span in told if span.span_id not in own]  # ours come back where an export leads here
        if others:
            chains.add(tree_of([*others, *own.values()]))
    return chains.result(len(records))


_Key = tuple[str, str]  # service and name
_REST: Final = (OTHERS, OTHERS)


class _Sums:
    """Of one dependency."""

    def __init__(self) -> None:
        self.durations = Sketch()
        self.origins = Sketch()
        self.errors = 0
        self.hits: Counter[bool] = Counter()
        self.crossings: Counter[bool] = Counter()

    def add(self, span: Span, tree: Tree) -> None:
        self.durations.add(span.duration_ns)
        self.errors += span.is_error
        hit = hit_of(span)
        if hit is not None:
            self.hits[hit] += 1
        children = tree.children.get(span.span_id, [])
        if hit is False and children:
            self.origins.add(covered_ns(children))
        crosses = crosses_zone(span, tree)
        if crosses is not None:
            self.crossings[crosses] += 1

    def merge(self, other: _Sums) -> None:
        self.durations.merge(other.durations)
        self.origins.merge(other.origins)
        self.errors += other.errors
        self.hits.update(other.hits)
        self.crossings.update(other.crossings)


class _Chains:
    """Traces, added one by one."""

    def __init__(self) -> None:
        self._sums: defaultdict[_Key, _Sums] = defaultdict(_Sums)
        self._traces: list[tuple[int, Counter[_Key]]] = []  # duration, and the critical path by dependency
        self._incomplete = 0

    def add(self, tree: Tree | None) -> None:
        if tree is None:
            return
        for span, _ in tree.walk():
            self._sums[_key(span)].add(span, tree)
        held: Counter[_Key] = Counter()
        for span_id, duration_ns in held_ns(critical_path(tree)).items():
            held[_key(tree.spans[span_id])] += duration_ns
        self._traces.append((tree.root.duration_ns, held))
        self._incomplete += tree.num_orphans > 0

    def result(self, requests: int) -> Breakdown:
        durations = Sketch()
        for duration_ns, _ in self._traces:
            durations.add(duration_ns)
        slowest = sorted(self._traces, key=lambda trace: trace[0], reverse=True)
        tail = slowest[: math.ceil(TAIL * len(slowest))]
        return Breakdown(
            len(self._traces),
            self._incomplete,
            requests,
            _seconds(durations, 0.5),
            _seconds(durations, 0.99),
            len(tail),
            self._rows(_total(self._traces), _total(tail), len(tail)),
        )

    def _rows(self, everything: Counter[_Key], in_tail: Counter[_Key], num_tail: int) -> list[Dependency]:
        ranked = sorted(self._sums, key=lambda key: (-in_tail[key], -everything[key], key))
        for key in [each for each in ranked[MAX_ROWS:] if each != _REST]:
            self._sums[_REST].merge(self._sums.pop(key))
            for held in (everything, in_tail):
                held[_REST] += held.pop(key, 0)
        rows = [_row(key, each, everything, in_tail, num_tail) for key, each in self._sums.items()]
        return sorted(rows, key=lambda row: (-row.tail_share, -row.critical_share, row.service, row.name))


def hit_of(span: Span) -> bool | None:
    """Whether a cache had what was asked of it; None where the span is of no cache."""
    values = [value for name in _HITS if isinstance(value := span.attributes.get(name), bool)]
    return values[0] if values else None


def crosses_zone(span: Span, tree: Tree) -> bool | None:
    """Whether caller and called were in different zones; None where it is no call, or where one of them is unknown."""
    if span.kind == "server":
        caller = tree.parent(span)
        zones = [_zone(span), None if caller is None else _zone(caller)]
    elif span.kind == "client":
        called = [child for child in tree.children.get(span.span_id, ()) if child.kind == "server"]
        named = span.attributes.get(_PEER_ZONE)
        zones = [_zone(span), named or (_zone(called[0]) if called else None)]
    else:
        return None
    return None if None in zones else zones[0] != zones[1]


def covered_ns(spans: Iterable[Span]) -> int:
    """How long at least one of them ran."""
    total_ns = reached_ns = 0
    for span in sorted(spans, key=lambda span: span.started_ns):
        from_ns = max(span.started_ns, reached_ns)
        total_ns += max(0, end_ns(span) - from_ns)
        reached_ns = max(reached_ns, end_ns(span))
    return total_ns


def _zone(span: Span) -> Attribute | None:
    return span.attributes.get(_ZONE) or None


def _key(span: Span) -> _Key:
    return span.service, span.name


def _total(traces: Iterable[tuple[int, Counter[_Key]]]) -> Counter[_Key]:
    total: Counter[_Key] = Counter()
    for _, held in traces:
        total.update(held)
    return total


def _row(key: _Key, sums: _Sums, everything: Counter[_Key], in_tail: Counter[_Key], num_tail: int) -> Dependency:
    count = len(sums.durations)
    return Dependency(
        service=key[0],
        name=key[1],
        count=count,
        error_rate=sums.errors / count,
        p50_s=sums.durations.quantile(0.5) / 1e9,
        p99_s=sums.durations.quantile(0.99) / 1e9,
        critical_share=_ratio(everything[key], everything.total()) or 0.0,
        tail_share=_ratio(in_tail[key], in_tail.total()) or 0.0,
        tail_s=in_tail[key] / 1e9 / num_tail,
        hit_rate=_ratio(sums.hits[True], sums.hits.total()),
        origin_p50_s=_seconds(sums.origins, 0.5),
        origin_p99_s=_seconds(sums.origins, 0.99),
        cross_zone_share=_ratio(sums.crossings[True], sums.crossings.total()),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _seconds(sketch: Sketch, share: float) -> float | None:
    return sketch.quantile(share) / 1e9 if len(sketch) else None
