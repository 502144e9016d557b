"""One trace of an application that passes through a model call: its spans and ours, and who held it up when.

Others' spans (retrieval, rerank, cache, tools) and our records meet by W3C trace context: a record's request is a span
below the one that called it, and its stages are spans below that. What many traces came to is `breakdown`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from tokenworks.observe.chains.critical_path import Segment, Tree, critical_path, tree_of
from tokenworks.observe.chains.own_spans import spans_of
from tokenworks.observe.ledger import Ledger, Span


class Link(msgspec.Struct, frozen=True):
    """A span in its chain."""

    span: Span
    depth: int
    critical_ns: int  # for so long it held up the whole


class Chain(msgspec.Struct, frozen=True):
    """One trace. The links' critical times sum to the root's duration."""

    trace_id: str
    links: list[Link]  # the root first; parents before children
    path: list[Segment]
    request_ids: list[str]  # of our records in it
    num_orphans: int  # spans whose parent is missing

    @property
    def duration_ns(self) -> int:
        """The root's."""
        return self.links[0].span.duration_ns


def chain_of(ledger: Ledger, trace_id: str, zone: str = "") -> Chain | None:
    """One trace; None where nothing is known of it. `zone`: where our own gateway runs. Raises LedgerError."""
    records = [ended.record for ended in ledger.trace(trace_id)]
    own = [span for record in records for span in spans_of(record, zone)]
    tree = tree_of([*ledger.spans(trace_id), *own])  # ours last: told again through an export, they count once
    return None if tree is None else _chain(trace_id, tree, [record.id for record in records])


def held_ns(path: Iterable[Segment]) -> Counter[str]:
    """Nanoseconds of the critical path by span id."""
    held: Counter[str] = Counter()
    for segment in path:
        held[segment.span_id] += segment.until_ns - segment.from_ns
    return held


def _chain(trace_id: str, tree: Tree, request_ids: list[str]) -> Chain:
    path = critical_path(tree)
    held = held_ns(path)
    links = [Link(span, depth, held[span.span_id]) for span, depth in tree.walk()]
    return Chain(trace_id, links, path, request_ids, tree.num_orphans)
