"""Your own videos, your own teacher, no labels.

    python -m streamzoo.train --config configs/folder_student.py \\
        --set data.path=VIDEOS teacher=TEACHER.safetensors data.detector=YOLOX.onnx

VIDEOS is a folder of video files, searched to the bottom; TEACHER any ``videomae-window-…`` weights
(one trained by the other configs), or a published VideoMAE through ``streamzoo convert``, which
wants ``data.size=224,224 model.name=dsta-ti16``; the detector finds the persons whose actions are
learned, and without one (``model.person=False distil.person=0``) the whole frame is the only box.
The teacher answers while the student trains, so a folder of any size will do. Measured cost: see
the README.
"""

from ..train.datasets.folder import FolderData
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.recipe import Model, Recipe
from ..train.tasks import DistilConfig

CONFIG = Recipe(
    data=FolderData(size=(128, 160), frame_rate=8.0, max_boxes=4),
    model=Model("dsta-lite0", person=True),
    teacher="runs/ut_teacher/weights.safetensors",
    distil=DistilConfig(person=0.5, every=4),
    keep_targets=False,
    loop=LoopConfig(
        steps=1000,
        batch=4,
        frames=16,
        optim=OptimConfig(name="muon", learning_rate=1e-3, ema=0.99),
        out="runs/folder_student",
    ),
)
