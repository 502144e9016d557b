"""Search by likeness: passages as vectors in an HNSW index (usearch).

The vectors are latent semantic analysis of character n-grams: counts of hashed n-grams, weighted by TF-IDF, reduced to
`DIMENSIONS` by a singular value decomposition (Deerwester et al., 1990). It needs no model and no download, finds words
by their parts ("preempted" and "preemption"), and knows nothing of meaning beyond what stands together in these pages.
A service with an embedding model at hand puts it in the place of `Vectoriser`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from usearch.index import Index

BUCKETS = 1 << 13
DIMENSIONS = 96
NGRAMS = (3, 4, 5)
_NOT_WORD = re.compile(r"[^a-z0-9]+")


class Vectoriser:
    """Learns from texts; turns a text into a unit vector of float32, [DIMENSIONS] or fewer for few texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = np.stack([_counts(text) for text in texts])  # [text, bucket]
        self._idf = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
        _, _, components = np.linalg.svd(self._weighted(counts), full_matrices=False)
        self._components = components[:DIMENSIONS].T.astype(np.float32)  # [bucket, dimension]

    def vector(self, text: str) -> np.ndarray:
        """One text's."""
        vector = self._weighted(_counts(text)) @ self._components
        return vector / max(float(np.linalg.norm(vector)), 1e-9)

    def _weighted(self, counts: np.ndarray) -> np.ndarray:
        weighted = np.log1p(counts) * self._idf
        lengths = np.linalg.norm(weighted, axis=-1, keepdims=True)
        return (weighted / np.maximum(lengths, 1e-9)).astype(np.float32)


class VectorSearch:
    """The index over all passages."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._ids = list(texts)
        self._vectoriser = Vectoriser(list(texts.values()))
        vectors = np.stack([self._vectoriser.vector(text) for text in texts.values()])
        self._index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
        self._index.add(np.arange(len(vectors)), vectors)

    def vector(self, text: str) -> np.ndarray:
        """Of a question."""
        return self._vectoriser.vector(text)

    def search(self, vector: np.ndarray, count: int) -> list[str]:
        """Ids of the nearest passages, nearest first."""
        return [self._ids[key] for key in self._index.search(vector, count).keys]


def _counts(text: str) -> np.ndarray:
    """How often each hashed n-gram stands in the text, words apart: float32 [BUCKETS]."""
    padded = [f" {word} " for word in _NOT_WORD.split(text.lower()) if word]
    grams = Counter(
        crc32(word[at : at + size].encode()) % BUCKETS
        for word in padded
        for size in NGRAMS
        for at in range(len(word) - size + 1)
    )
    counts = np.zeros(BUCKETS, np.float32)
    counts[list(grams)] = list(grams.values())
    return counts
