"""Writes ``data/selfie.npz``: what the published graph answers in TensorFlow.js to real frames.

python -m tests.zoo.golden_selfie FOLDER    # with package/ and node_modules/, as
                                            # tests/bench/ported.py says
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.bench.ported import frames, published

FILE = Path(__file__).parent / "data" / "selfie.npz"
CLIPS = {"mmaction2_demo_arm_wrestling.mp4": (1, 1), "sam2_bedroom.mp4": (1, 1)}


def main() -> None:
    video = frames((256, 256), CLIPS)
    alpha = published(Path(sys.argv[1]).resolve(), "selfie", video, scale=255.0)
    np.savez_compressed(FILE, alpha=alpha.reshape(video.shape[:3]).astype(np.float16))
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
