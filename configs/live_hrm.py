"""Many cameras, and an anomaly that none of them sees alone: HRM on and off.

    python -m streamzoo.train --config configs/live_hrm.py
    python -m streamzoo.train --config configs/live_hrm.py --set live.cross=False \\
        loop.out=runs/live_alone

Scenes are drawn, and the frozen encoder is run over them, once; then about 3 CPU minutes. The model
is live-mi-lite0 at a width of 64 (`width`; registered are features of 256, keys and memory of 128).
Three seeds, held-out scenes: AUC of the anomaly 0.906 with HRM, 0.511 without, F1 0.864 against
0.638 of always saying yes. `python tests/bench/live_models.py` trains all forms and writes the
figures.
"""

from ..train.data.handover import FRAMES
from ..train.live import LiveRecipe
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig

CONFIG = LiveRecipe(
    loop=LoopConfig(
        steps=500,
        batch=4,
        frames=FRAMES,
        optim=OptimConfig(learning_rate=2e-3, weight_decay=0.02, ema=0.99),
        checkpoint_every=100,
        out="runs/live_hrm",
    ),
)
