"""Many cameras, and an anomaly that none of them sees alone: HRM on and off.

    python -m streamzoo.train --config configs/live_hrm.py
    python -m streamzoo.train --config configs/live_hrm.py --set live.cross=False

Scenes are drawn, and the frozen encoder is run over them, once. Not measured yet:
`python tests/bench/live_models.py` trains with and without HRM and writes the figures.
"""

from ..train.data.handover import FRAMES
from ..train.live import LiveRecipe
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig

CONFIG = LiveRecipe(
    loop=LoopConfig(
        steps=500,
        lanes=4,
        frames=FRAMES,
        optim=OptimConfig(rate=2e-3, decay=0.02, ema=0.99),
        checkpoint_every=100,
        out="runs/live_hrm",
    ),
)
