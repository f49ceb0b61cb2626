"""The offline teacher on EgoGestAR, from labels; sessions C and E are the test.

    python -m streamzoo.train --config configs/egogestar_teacher.py --set data.path=D test.path=D

D holds ``labels.csv``, ``classes.txt`` and ``clips``. It reads the whole gesture, at every
frame anew, as points of the frozen palm detector.
"""

import dataclasses

from ..train.datasets.egogestar import EgoGestARData
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.recipe import Model, Recipe
from ..train.tasks import SuperviseConfig

TRAIN = EgoGestARData(
    path="../shared/data/egogestar",
    sessions=("A", "B", "H", "I"),
    copies=4,
)

CONFIG = Recipe(
    data=TRAIN,
    test=dataclasses.replace(TRAIN, sessions=("C", "E"), copies=0),
    model=Model("videomae-window-palm"),
    supervise=SuperviseConfig(smoothing=0.1, windows=2),
    loop=LoopConfig(
        steps=400,
        batch=16,
        frames=24,
        optim=OptimConfig(name="muon", learning_rate=2e-3, weight_decay=0.1, ema=0.99),
        out="runs/egogestar_teacher",
    ),
)
