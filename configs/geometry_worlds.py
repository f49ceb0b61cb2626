"""Cameras, depth and points of a stream, learned from films of drawn rooms.

    python -m streamzoo.train --config configs/geometry_worlds.py

No recording and no other model is in it. The drawn films are kept under ``cache``.
"""

from ..train.depth import GeometryRecipe
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig

CONFIG = GeometryRecipe(
    loop=LoopConfig(
        steps=900, batch=2, frames=8, out="runs/geometry_worlds",
        optim=OptimConfig(name="muon", learning_rate=2e-3, ema=0.99),
    ),
)  # fmt: skip
