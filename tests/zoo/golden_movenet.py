"""Writes ``data/movenet.npz``: real frames, and what the published graphs answer in TensorFlow.js.

python -m tests.zoo.golden_movenet FOLDER    # with package/ and node_modules/, as
                                             # tests/bench/ported.py says
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.bench.ported import frames, published

FILE = Path(__file__).parent / "data" / "movenet.npz"
CLIPS = {"vtest_pedestrians_480x360.mp4": (2, 300), "one-by-one-person-detection.mp4": (1, 40)}


def main() -> None:
    folder, found = Path(sys.argv[1]).resolve(), {}
    # several persons: the network takes any multiples of 32
    for name, graph, size in (
        ("multi", "movenet-multipose", (160, 192)),
        ("single", "movenet-lightning", (192, 192)),
    ):
        video = frames(size, CLIPS)
        found[f"{name}_frames"] = video
        found[name] = published(folder, graph, video).reshape(len(video), -1)
    np.savez_compressed(FILE, **found)
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
