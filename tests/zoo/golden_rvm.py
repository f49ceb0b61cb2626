"""Writes ``data/rvm.npz``: what the authors' network answers with weights drawn at random.

PYTHONPATH=FOLDER python -m tests.zoo.golden_rvm    # FOLDER: PeterL1n/RobustVideoMatting, cloned

Kept are the checkpoint's names and shapes, the frames and the answers; neither code nor weights.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "data" / "rvm.npz"
STEPS, SIZE = 3, (36, 50)  # sides that halve to odd numbers
RATIO = 0.5


def drawn(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """A checkpoint's tensors by their names and shapes."""
    rng, out = np.random.default_rng(0), {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("num_batches_tracked"):
            out[name] = np.zeros(shape, np.int64)
        elif name.endswith("running_var"):
            out[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:  # gains of norms lie around one, all else around zero
            gain = name.endswith("weight")
            out[name] = rng.normal(float(gain), 0.1, shape).astype(np.float32)
        else:
            fan = np.prod(shape[1:])
            out[name] = (rng.normal(0, 1, shape) * np.sqrt(1.5 / fan)).astype(np.float32)
    # so that most answers lie between 0 and 1, where nothing is cut off
    for name in ("project_mat.conv.weight", "refiner.conv.6.weight", "refiner.conv.6.bias"):
        out[name] *= 0.2
    out["refiner.box_filter.weight"] = (1 / 9 + 0.02 * rng.normal(size=(4, 1, 3, 3))).astype("f4")
    out["project_mat.conv.bias"] += np.float32([0, 0, 0, 0.5])
    return out


def main() -> None:
    import torch

    network = importlib.import_module("model").MattingNetwork("mobilenetv3").eval()
    shapes = {name: list(t.shape) for name, t in network.state_dict().items()}
    network.load_state_dict({k: torch.from_numpy(v) for k, v in drawn(shapes).items()})
    frames = np.random.default_rng(1).integers(0, 256, (1, STEPS, *SIZE, 3)).astype(np.uint8)
    source = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 1, 4, 2, 3)
    kept = {"frames": frames, "shapes": np.asarray(json.dumps(shapes))}
    for name, ratio in (("whole", 1), ("half", RATIO)):
        with torch.no_grad():
            colours, alpha, *states = network(source, downsample_ratio=ratio)
        back = lambda t: t.movedim(-3, -1).numpy()
        kept |= {f"{name}_colours": back(colours), f"{name}_alpha": back(alpha)[..., 0]}
        kept |= {f"{name}_state": back(states[0]), f"{name}_top": back(states[3])}
        print(name, [float((t > 0).float().mean()) for t in (colours, alpha)], alpha.std())
    np.savez_compressed(FILE, **{
        k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in kept.items()
    })  # fmt: skip
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
