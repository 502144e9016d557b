"""The searches of examples/rag find the right pages of our own documentation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("usearch", reason="needs .venv/bin/pip install -r examples/rag/requirements.txt")

ROOT = Path(__file__).parent.parent
QUESTIONS = [
    ("Which server software can be a worker in the pool?", "guides/foreign-servers.md"),
    ("Why is there a journal between gateway and database?", "design/016-one-table.md"),
    ("When is a KV block fetched instead of computed again?", "guides/kv-tiers.md"),
    ("How are experts of a mixture of experts model computed?", "design/007-mixture-of-experts.md"),
]


@pytest.fixture(scope="module")
def rag() -> Iterator[SimpleNamespace]:
    """The example's modules, which are no package, and what they make of docs/."""
    folder = str(ROOT / "examples" / "rag")
    before = set(sys.modules)
    sys.path.insert(0, folder)
    import corpus
    import ranking
    import vectors
    import words

    texts = {passage.id: passage.text for passage in corpus.passages_of(ROOT / "docs").values()}
    yield SimpleNamespace(
        texts=texts,
        corpus=corpus,
        ranking=ranking,
        vectors=vectors.VectorSearch(texts),
        words=words.WordSearch(texts),
        reranker=ranking.Reranker(texts),
    )
    sys.path.remove(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]


@pytest.mark.parametrize(("question", "page"), QUESTIONS)
def test_the_passages_read_are_of_the_right_page(rag: SimpleNamespace, question: str, page: str) -> None:
    near = rag.vectors.search(rag.vectors.vector(question), 20)
    named = rag.words.search(question, 20)
    best = rag.reranker.rerank(question, rag.ranking.fuse([near, named]), 3)
    assert page in {passage.partition("#")[0] for passage in best}


def test_a_passage_finds_itself(rag: SimpleNamespace) -> None:
    for passage_id, text in list(rag.texts.items())[::10]:
        assert passage_id in rag.vectors.search(rag.vectors.vector(text), 2)


@pytest.mark.parametrize("question", ["", "?!", '" OR 1=1 --', "NEAR(a b)", "列出", "a" * 5000])
def test_no_question_breaks_a_search(rag: SimpleNamespace, question: str) -> None:
    near = rag.vectors.search(rag.vectors.vector(question), 5)
    assert len(near) == 5
    assert isinstance(rag.words.search(question, 5), list)
    assert len(rag.reranker.rerank(question, near, 3)) == 3


def test_fusion_is_the_sum_of_reciprocal_ranks(rag: SimpleNamespace) -> None:
    scores = {"a": 1 / 61, "b": 2 / 62, "c": 1 / 63 + 1 / 61}
    assert rag.ranking.fuse([["a", "b", "c"], ["c", "b"]]) == sorted(scores, key=lambda each: -scores[each])


def test_passages_are_cut_at_headings_and_none_is_too_long(rag: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\ntext\n\n## Two\n\n" + "word " * 200 + "\n\n" + "more " * 200)
    found = rag.corpus.passages_of(tmp_path)
    assert [(passage.id, passage.title) for passage in found.values()] == [
        ("a.md#0", "One"),
        ("a.md#1", "Two"),
        ("a.md#2", "Two"),
    ]
