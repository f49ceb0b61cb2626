"""Writes ``data/marigold.npz``: steps of diffusers' DDIM and its ensembles of depth maps.

    git clone https://github.com/huggingface/diffusers
    python -m tests.parity.golden_marigold diffusers/src

The scheduler is made with the numbers of Marigold's releases: the first one's times lead, the
second one's trail and its last time keeps nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from .golden import DATA
from .harness import mend_torchvision

BASE: dict[str, Any] = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
    set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
)  # fmt: skip
RELEASES: dict[str, dict[str, Any]] = {
    "first": {"timestep_spacing": "leading"},
    "second": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "noise": {"timestep_spacing": "leading", "prediction_type": "epsilon"},
    "clean": {
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "prediction_type": "sample",
        "set_alpha_to_one": True,
    },
}
STEPS = (1, 4, 7, 10)


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Normal noise that stays the same."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def maps(count: int) -> np.ndarray:
    """Depth maps [N, 12, 16] of one scene, each of another scale and shift, with noise."""
    rng = np.random.RandomState(count)
    scene = np.add.outer(np.linspace(0, 1, 12) ** 2, 0.5 * np.sin(np.linspace(0, 5, 16)))
    found = [
        rng.uniform(0.3, 0.9) * scene + rng.uniform(0, 0.3) + 0.03 * rng.standard_normal((12, 16))
        for _ in range(count)
    ]
    return np.asarray(found, np.float32)


def main(source: str) -> None:
    import torch

    sys.path.insert(0, source)
    mend_torchvision()
    ddim: Any = importlib.import_module("diffusers.schedulers.scheduling_ddim")
    pipeline: Any = importlib.import_module("diffusers.pipelines.marigold.pipeline_marigold_depth")
    found: dict[str, np.ndarray] = {}
    for name, more in RELEASES.items():
        scheduler = ddim.DDIMScheduler(**{**BASE, **more})
        found[f"{name}_kept"] = scheduler.alphas_cumprod.numpy()
        for steps in STEPS:
            scheduler.set_timesteps(steps)
            found[f"{name}_times_{steps}"] = scheduler.timesteps.numpy()
            x = torch.from_numpy(numbers(0, 2, 3, 4))
            walk = []
            for k, time in enumerate(scheduler.timesteps):
                answer = torch.from_numpy(numbers(1 + k, 2, 3, 4))
                x = scheduler.step(answer, time, x).prev_sample
                walk.append(x.numpy())
            found[f"{name}_walk_{steps}"] = np.stack(walk)
    for count in (1, 2, 5):
        for reduction in ("median", "mean") if count > 1 else ("median",):
            given = torch.from_numpy(maps(count))[:, None]
            depth, doubt = pipeline.MarigoldDepthPipeline.ensemble_depth(
                given, True, True, True, reduction
            )
            found[f"depth_{count}_{reduction}"] = depth[0, 0].numpy()
            found[f"doubt_{count}_{reduction}"] = doubt[0, 0].numpy()
    np.savez_compressed(DATA / "marigold.npz", **found)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main(*sys.argv[1:])
