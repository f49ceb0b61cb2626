"""Writes ``data/blazepose.npz``: what MediaPipe's own graph answers of a clip, frame after frame.

PYTHONPATH=FOLDER python -m tests.zoo.golden_blazepose    # FOLDER: mediapipe 0.10.21, installed

It has to be installed with what it needs (``pip install mediapipe==0.10.21 av``), in an environment
of its own: the graph runs in its compiled library.
"""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "data" / "blazepose.npz"
CLIP = "one-by-one-person-detection.mp4"
FIRST, COUNT = 300, 24


def frames(clip: Path) -> np.ndarray:
    """uint8 [COUNT, H, W, 3]."""
    import av

    with av.open(str(clip)) as container:
        decoded = container.decode(video=0)
        wanted = itertools.islice(decoded, FIRST, FIRST + COUNT)
        kept = [frame.to_ndarray(format="rgb24") for frame in wanted]
    return np.stack(kept)


def main() -> None:
    graphs = importlib.import_module("mediapipe")
    video = frames(Path(__file__).parents[3] / "shared" / "data" / "clips" / CLIP)
    found = {}
    for name, smooth in (("smooth", True), ("plain", False)):
        with graphs.solutions.pose.Pose(smooth_landmarks=smooth) as pose:
            said = [pose.process(frame).pose_landmarks.landmark for frame in video]
        found[name] = np.asarray([[(p.x, p.y, p.visibility) for p in one] for one in said])
    np.savez_compressed(FILE, **{k: v.astype(np.float32) for k, v in found.items()})
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
