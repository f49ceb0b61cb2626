"""The offline teacher on UT-Interaction, from labels; sequences 1, 2, 11 and 12 are the test.

    python -m streamzoo.train --config configs/ut_teacher.py --set data.path=FOLDER test.path=FOLDER

FOLDER holds ``set1``, ``set2`` and ``classes.txt``. On one 2.5 GHz core: persons
and features, once, 4 minutes; then 5 minutes. Expected: top-1 0.714 on 35 clips.
"""

import dataclasses

from ..train.datasets.ut_interaction import UTInteractionData
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.recipe import Model, Recipe
from ..train.tasks import SuperviseConfig

TRAIN = UTInteractionData(
    path="../shared/data/ut_interaction",
    size=(128, 160),
    frame_rate=8.0,
    max_boxes=4,
    detector="../shared/data/weights/yolox_nano_coco_416.onnx",
    sequences=(3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 17, 18),
    mirror=True,
)

CONFIG = Recipe(
    data=TRAIN,
    test=dataclasses.replace(TRAIN, sequences=(1, 2, 11, 12), mirror=False),
    model=Model("videomae-window-lite0"),
    supervise=SuperviseConfig(smoothing=0.1),
    loop=LoopConfig(
        steps=250,
        batch=8,
        frames=16,
        optim=OptimConfig(name="muon", learning_rate=1e-3, weight_decay=0.1, ema=0.99),
        out="runs/ut_teacher",
    ),
)
