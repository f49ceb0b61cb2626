"""What a describer says of pictures that it did not learn from, beside what is easy to say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

Row = tuple[str, str, str]  # kind, what would be right, what was said


def rates(rows: Sequence[Row], common: dict[str, str]) -> dict[str, dict[str, float]]:
    """Kind -> pictures, share of sentences that are right to the word, and of the commonest
    caption that was learned (``common``), said of every picture."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row[0]].append(row)
    return {
        kind: {
            "pictures": len(own),
            "right": float(np.mean([want == said for _, want, said in own])),
            "commonest": float(np.mean([want == common[kind] for _, want, _ in own])),
        }
        for kind, own in kinds.items()
    }


def commonest(captions: Sequence[tuple[str, str]]) -> dict[str, str]:
    """(kind, caption) of what was learned -> kind -> the caption that is there most often."""
    count: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, text in captions:
        count[kind][text] += 1
    return {kind: own.most_common(1)[0][0] for kind, own in count.items()}


def probe(x: np.ndarray, y: Sequence[str], test: np.ndarray, want: Sequence[str]) -> float:
    """Share of right answers of ridge regression on the same features: what they hold."""
    names = sorted(set(y))
    target = np.eye(len(names))[[names.index(word) for word in y]]
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    a = np.concatenate([(x - mean) / std, np.ones((len(x), 1))], axis=1)
    b = np.concatenate([(test - mean) / std, np.ones((len(test), 1))], axis=1)
    w = np.linalg.solve(a.T @ a + 300 * np.eye(a.shape[1]), a.T @ target)
    said = [names[i] for i in (b @ w).argmax(axis=1)]
    return float(np.mean([p == q for p, q in zip(said, want, strict=True)]))
