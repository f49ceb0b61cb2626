"""The metrics of tracked masks."""

from __future__ import annotations

import numpy as np

from ..metrics.jf import jf, region_similarity, tracking_length


def track_metrics(pairs: list[tuple[str, tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
    """J&F, J and F over sequences, J&F of each, and ``kept``: the mean part of a sequence before
    the object is lost (5 frames in a row with J of at most 0.1)."""
    result = jf(pairs)
    kept = []
    for _, (truth, found) in pairs:
        j = region_similarity(truth > 0, found > 0)
        seen = np.asarray(truth.any((1, 2)))
        if seen.any():
            kept.append(tracking_length(j, seen, threshold=0.1, patience=5) / len(j))
    return {
        "J&F": result.jf,
        "J": result.j,
        "F": result.f,
        "kept": float(np.mean(kept)),
        **{f"J&F/{name[:-2]}": (j + f) / 2 for name, (j, f) in result.per_object.items()},
    }
