"""The critical path is a partition of the root's time, found by hand here and by brute force over random trees."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.observe.made import span
from tokenworks.observe.chains.critical_path import SKEW_NS, Segment, critical_path, end_ns, tree_of
from tokenworks.observe.ledger import Span

MS = 1_000_000


def path(*spans: Span) -> list[tuple[str, float, float]]:
    """Segments in milliseconds after the root's start."""
    tree = tree_of(spans)
    assert tree is not None
    start = tree.root.started_ns
    return [(part.span_id, (part.from_ns - start) / MS, (part.until_ns - start) / MS) for part in critical_path(tree)]


def test_a_span_alone_held_itself_up() -> None:
    assert path(span("a", 0, 10)) == [("a", 0, 10)]


def test_children_one_after_the_other_and_the_time_between_them() -> None:
    found = path(span("a", 0, 100), span("b", 10, 30, "a"), span("c", 50, 90, "a"))
    assert found == [("a", 0, 10), ("b", 10, 30), ("a", 30, 50), ("c", 50, 90), ("a", 90, 100)]


def test_of_children_side_by_side_the_one_that_ended_last_counts() -> None:
    assert path(span("a", 0, 100), span("b", 10, 60, "a"), span("c", 10, 90, "a")) == [
        ("a", 0, 10),
        ("c", 10, 90),
        ("a", 90, 100),
    ]


def test_a_grandchild_is_followed() -> None:
    found = path(span("a", 0, 100), span("b", 0, 80, "a"), span("c", 20, 60, "b"))
    assert found == [("b", 0, 20), ("c", 20, 60), ("b", 60, 80), ("a", 80, 100)]


def test_a_child_that_clocks_make_look_late_is_clipped_to_its_parent() -> None:
    assert path(span("a", 0, 50), span("b", -5, 60, "a")) == [("b", 0, 50)]


def test_siblings_that_overlap_within_the_skew_of_clocks_come_one_after_the_other() -> None:
    skew = SKEW_NS / MS
    assert path(span("a", 0, 50), span("b", 0, 20 + skew, "a"), span("c", 20, 50, "a")) == [("b", 0, 20), ("c", 20, 50)]


def test_nobody_waits_for_a_message_that_is_taken_up_later() -> None:
    late = span("b", 10, 400, "a", kind="consumer")
    assert path(span("a", 0, 50), late) == [("a", 0, 50)]


def test_a_span_whose_parent_is_missing_stands_below_the_root() -> None:
    tree = tree_of([span("a", 0, 50), span("b", 10, 20, "lost")])
    assert tree is not None
    assert tree.num_orphans == 1
    assert [(each.span_id, depth) for each, depth in tree.walk()] == [("a", 0), ("b", 1)]


def test_circles_and_nothing_have_no_root() -> None:
    assert tree_of([]) is None
    assert tree_of([span("a", 0, 1, "b"), span("b", 0, 1, "a")]) is None


def test_a_circle_beside_a_tree_is_left_out() -> None:
    spans = [span("root", 0, 9), span("a", 0, 1, "b"), span("b", 0, 1, "a"), span("self", 2, 3, "self")]
    tree = tree_of(spans)
    assert tree is not None
    assert {each.span_id for each, _ in tree.walk()} == {"root", "self"}


def test_a_trace_may_be_as_deep_as_it_likes() -> None:
    deep = [span("0", 0, 100)] + [span(str(n), 0, 100, str(n - 1)) for n in range(1, 20_000)]
    assert path(*deep) == [("19999", 0, 100)]


def random_tree(seed: int) -> list[Span]:
    """Up to 60 spans, which overlap, outlive their parents and lose them."""
    rng = random.Random(seed)
    spans = [span("0", 0, 1000)]
    for number in range(1, rng.randint(1, 60)):
        start = rng.randint(-50, 1050)
        parent = rng.choice([*spans, span("lost", 0, 0)]).span_id
        kind = rng.choice(["internal", "client", "server", "consumer"])
        spans.append(span(str(number), start, start + rng.randint(0, 500), parent, kind=kind))
    return spans


@pytest.mark.parametrize("seed", range(200))
def test_the_path_is_a_partition_of_the_roots_time(seed: int) -> None:
    tree = tree_of(random_tree(seed))
    assert tree is not None
    found = critical_path(tree)
    edges = [found[0].from_ns, *(part.until_ns for part in found)]
    assert edges == [tree.root.started_ns, *(part.from_ns for part in found[1:]), end_ns(tree.root)]
    assert all(part.from_ns < part.until_ns for part in found)
    for part in found:
        assert tree.spans[part.span_id].started_ns <= part.from_ns
        assert part.until_ns <= end_ns(tree.spans[part.span_id])


def brute(tree_root: Span, children: dict[str, list[Span]], from_ns: int, until_ns: int) -> Counter[str]:
    """The same walk, moment by moment: who holds up `tree_root` in each millisecond before `until_ns`."""
    held: Counter[str] = Counter()
    left = sorted(children.get(tree_root.span_id, ()), key=lambda each: (end_ns(each), each.duration_ns, each.span_id))
    at_ns, is_first = until_ns, True
    while at_ns > from_ns:
        candidates = [
            child
            for child in left
            if max(child.started_ns, from_ns) < min(end_ns(child), at_ns)
            and (end_ns(child) <= at_ns + SKEW_NS or is_first)
            and not (child.kind == "consumer" and end_ns(child) > until_ns + SKEW_NS)
        ]
        if not candidates:
            held[tree_root.span_id] += at_ns - from_ns
            break
        child = candidates[-1]
        left = left[: left.index(child)]
        end = min(end_ns(child), at_ns)
        held[tree_root.span_id] += at_ns - end
        start = max(child.started_ns, from_ns)
        held.update(brute(child, children, start, end))
        at_ns, is_first = start, False
    return held


@pytest.mark.parametrize("seed", range(50))
def test_the_path_is_what_brute_force_finds(seed: int) -> None:
    tree = tree_of(random_tree(seed))
    assert tree is not None
    wanted = +brute(tree.root, tree.children, tree.root.started_ns, end_ns(tree.root))
    found: Counter[str] = Counter()
    for part in critical_path(tree):
        assert isinstance(part, Segment)
        found[part.span_id] += part.until_ns - part.from_ns
    assert found == wanted
