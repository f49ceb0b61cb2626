"""A small tracker on DAVIS-2016; every fourth sequence by name is the test.

    python -m streamzoo.train --config configs/davis_tracker.py --set path=DAVIS

DAVIS is the archive or folder. Then longer clips, or what is handed on drifts: from the weights so
far (``weights=``, another ``loop.out``) with ``loop.frames=12 loop.lanes=2 loop.steps=600
loop.optim.rate=2e-4``, and once more with ``loop.frames=24 loop.lanes=1 loop.steps=600
loop.optim.rate=1e-4``. Each takes about ten minutes on one core; J&F from a mask 53.3, 56.0 and
56.9 (seed 0).
"""

from ..train.data.mask_clips import Augment
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.track import TrackRecipe

CONFIG = TrackRecipe(
    path="../shared/data/davis16_val_240p.zip",
    sequences=(
        "blackswan", "bmx-trees", "car-shadow", "dance-twirl", "dog", "drift-chicane",
        "goat", "horsejump-high", "kite-surf", "paragliding-launch", "parkour", "scooter-black",
    ),
    held_out=("cows", "drift-straight", "motocross-jump", "soapbox"),
    size=(160, 288),
    augment=Augment(zoom=(1.0, 2.0)),
    loop=LoopConfig(
        steps=800,
        lanes=3,
        frames=5,
        optim=OptimConfig(rate=5e-4, decay=0.05, ema=0.99),
        checkpoint_every=25,
        out="runs/davis_tracker",
    ),
)  # fmt: skip
