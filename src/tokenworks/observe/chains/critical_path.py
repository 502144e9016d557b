"""Which span held up the whole at every moment: the critical path of one trace.

After CRISP (Zhang et al., "CRISP: Critical Path Analysis of Large-Scale Microservice Architectures", USENIX ATC 2022):
walk back from the root's end; the child that ended last held up its parent until then, before it the child that ended
last before that one began, and so on; what no child covers is the parent's own. The parts are a partition of the root's
time: they sum to it to the nanosecond.

Clocks of different machines differ a little: a child is clipped to its parent, and two siblings count as one after the
other where they overlap by no more than `SKEW_NS`. Nothing here recurses, so that a trace may be as deep as it likes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tokenworks.observe.ledger import Span

SKEW_NS: Final = 1_000_000


class Segment(NamedTuple):
    """A stretch of time, and the span that held up the root in it."""

    span_id: str
    from_ns: int
    until_ns: int


class Tree(NamedTuple):
    """The spans of one trace, by who called whom."""

    root: Span
    spans: dict[str, Span]  # by id; the root among them
    children: dict[str, list[Span]]  # by their parent's id
    num_orphans: int  # whose parent is missing: they stand below the root

    def walk(self) -> Iterator[tuple[Span, int]]:
        """Every span that the root leads to, with its depth; parents first, siblings by start."""
        stack = [(self.root, 0)]
        while stack:
            span, depth = stack.pop()
            yield span, depth
            below = sorted(self.children.get(span.span_id, ()), key=lambda child: child.started_ns, reverse=True)
            stack += [(child, depth + 1) for child in below]

    def parent(self, span: Span) -> Span | None:
        """Who called it, where that is known."""
        return self.spans.get(span.parent_span_id) if span is not self.root else None


def tree_of(spans: Iterable[Span]) -> Tree | None:
    """The tree; None where there is no span that could be its root. Of spans with one id the last counts."""
    by_id = {span.span_id: span for span in spans}
    tops = [span for span in by_id.values() if span.parent_span_id not in by_id or span.parent_span_id == span.span_id]
    if not tops:
        return None  # nothing, or nothing but circles
    root = max(tops, key=lambda span: (not span.parent_span_id, span.duration_ns))
    children: defaultdict[str, list[Span]] = defaultdict(list)
    orphans = [span for span in tops if span is not root]
    top_ids = {span.span_id for span in tops}
    for span in by_id.values():
        if span.span_id not in top_ids:
            children[span.parent_span_id].append(span)
    children[root.span_id] += orphans
    return Tree(root, by_id, dict(children), len(orphans))


def critical_path(tree: Tree) -> list[Segment]:
    """Segments from the root's start to its end, without gap or overlap, in order."""
    found: list[Segment] = []
    stack = [Segment(tree.root.span_id, tree.root.started_ns, end_ns(tree.root))]
    while stack:
        part = stack.pop()
        held, own = _split(part, tree.children.get(part.span_id, ()))
        stack += held
        found += own
    return sorted(found, key=lambda segment: segment.from_ns)


def _split(part: Segment, children: Iterable[Span]) -> tuple[list[Segment], list[Segment]]:
    """What of a span's part its children held up, and what was its own."""
    held, own = [], []
    cursor_ns = part.until_ns
    is_first = True
    for child in sorted(children, key=_lateness, reverse=True):
        is_before = end_ns(child) <= cursor_ns + SKEW_NS
        until_ns = min(end_ns(child), cursor_ns)
        from_ns = max(child.started_ns, part.from_ns)
        if from_ns >= until_ns or not (is_before or is_first) or _outlives(child, part):
            continue
        is_first = False
        held.append(Segment(child.span_id, from_ns, until_ns))
        if until_ns < cursor_ns:
            own.append(Segment(part.span_id, until_ns, cursor_ns))
        cursor_ns = from_ns
    if part.from_ns < cursor_ns:
        own.append(Segment(part.span_id, part.from_ns, cursor_ns))
    return held, own


def _lateness(span: Span) -> tuple[int, int, str]:
    return end_ns(span), span.duration_ns, span.span_id  # of those that end together the longest: a settled order


def _outlives(child: Span, part: Segment) -> bool:
    """Whether nobody waited for it: a message taken up later, not a call that clocks make look late."""
    return child.kind == "consumer" and end_ns(child) > part.until_ns + SKEW_NS


def end_ns(span: Span) -> int:
    """When it ended, since 1970."""
    return span.started_ns + span.duration_ns
