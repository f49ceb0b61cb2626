"""An encoder from several teachers, without labels: the large proxy of EUPE's chain.

    python -m streamzoo.train --config configs/ucf11_teacher.py
    python -m streamzoo.train --config configs/encoder_proxy.py
    python -m streamzoo.train --config configs/encoder_student.py
    python -m streamzoo.train --config configs/encoder_pyramid.py

Small but real: EfficientNet-Lite0 (ImageNet) and UCF11's action teacher, which learned from the
labels of these very videos, teach a ViT 384 wide on single frames, 1.8 epochs of them. Their
answers are computed once, which takes some minutes. A shorter and smaller form of the whole chain
was measured: tests/bench/results/encoder_distil.md; this one was not.
"""

from ..train.agglomerate import AgglomerateConfig
from ..train.datasets.ucf11 import UCF11Data
from ..train.encoders import EncoderModel, EncoderRecipe
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig

ZIP = "../shared/data/ucf11_5frames_160x120.zip"

CONFIG = EncoderRecipe(
    data=UCF11Data(path=ZIP, size=(128, 160), max_boxes=1),
    test=UCF11Data(path=ZIP, size=(128, 160), max_boxes=1, split="test"),
    model=EncoderModel("eupe-s16", size=(64, 80), depth=6, layer_scale=1.0),
    teachers=(
        "imagenet=efficientnet-lite0/imagenet",
        "action=runs/ucf11_teacher/weights.safetensors",
    ),
    distil=AgglomerateConfig(hidden=384, measured=200),
    loop=LoopConfig(
        steps=400,
        batch=32,
        frames=1,
        optim=OptimConfig(name="muon", learning_rate=1e-3, weight_decay=0.1, ema=0.99),
        out="runs/encoder_proxy",
    ),
)
