"""From two rankings to one, and from that to the few passages worth reading."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")
RRF_K = 60


def fuse(rankings: Iterable[Sequence[str]]) -> list[str]:
    """Reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009): a passage's score is the sum of 1/(k + rank)."""
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, passage_id in enumerate(ranking, start=1):
            scores[passage_id] += 1 / (RRF_K + rank)
    return sorted(scores, key=lambda passage_id: -scores[passage_id])


class Reranker:
    """Looks at each candidate as a whole: how much of the question it covers, rare words counting more.

    The score is the IDF of the question's words found, over that of all, plus half as much again for pairs of
    neighbouring words that stand together in the passage too.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        self._words = {passage_id: _words(text) for passage_id, text in texts.items()}
        found = Counter(word for words in self._words.values() for word in set(words))
        self._idf = {word: math.log((1 + len(texts)) / (1 + count)) for word, count in found.items()}

    def rerank(self, question: str, candidates: Sequence[str], count: int) -> list[str]:
        """The best `count` of the candidates, the best first."""
        asked = _words(question)
        return sorted(candidates, key=lambda passage_id: -self._score(asked, self._words[passage_id]))[:count]

    def _score(self, asked: Sequence[str], words: Sequence[str]) -> float:
        known = [word for word in dict.fromkeys(asked) if word in self._idf]
        total = sum(self._idf[word] for word in known)
        if not total:
            return 0.0
        there, pairs = set(words), set(zip(words, words[1:], strict=False))
        covered = sum(self._idf[word] for word in known if word in there)
        together = sum(
            self._idf.get(left, 0) + self._idf.get(right, 0)
            for left, right in zip(asked, asked[1:], strict=False)
            if (left, right) in pairs
        )
        return (covered + together / 2) / total


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
