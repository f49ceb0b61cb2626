"""Writes ``data/palm.npz``: real frames, and what the published network answers in its runtime.

PYTHONPATH=FOLDER python -m tests.zoo.golden_palm    # FOLDER: mediapipe 0.10.21, unzipped
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.bench.ported import frames
from tests.zoo.mediapipe_runtime import graph, published

FILE = Path(__file__).parent / "data" / "palm.npz"
CLIPS = {"asl_gestures/please.mkv": (1, 30), "asl_gestures/walk.mkv": (1, 30)}


def main() -> None:
    path = graph()
    if path is None:
        raise SystemExit("mediapipe 0.10.21 is not on the path")
    pictures = frames((192, 192), CLIPS)
    values, logits = published(path, pictures)
    np.savez_compressed(FILE, frames=pictures, values=values, logits=logits[..., 0])
    print(FILE, FILE.stat().st_size, "bytes", 1 / (1 + np.exp(-logits.max(axis=1))))


if __name__ == "__main__":
    main()
