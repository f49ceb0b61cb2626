"""Depth learned from drawn worlds: a small decoder on a frozen EfficientNet-Lite0.

    python -m streamzoo.train --config configs/depth_worlds.py

No recording and no other model's depth is in it. The drawn pictures are kept under ``cache``.
"""

from ..train.depth import DepthRecipe
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig

CONFIG = DepthRecipe(
    loop=LoopConfig(
        steps=1600, batch=8, frames=1, out="runs/depth_worlds",
        optim=OptimConfig(learning_rate=1.5e-3, ema=0.99),
    ),
)  # fmt: skip
