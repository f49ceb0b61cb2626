"""A recogniser that hears as it is said, taught by the offline one, without labels.

    python -m streamzoo.train --config configs/moonshine_live.py --set data.path=RECORDINGS

RECORDINGS is a folder of English speech (wav, flac, mp3), an hour or more; what is under a folder
``test-other`` is measured on, not learned from. The student is Moonshine-base whose encoder sees
hops of features and some behind them, three such looks drawn by turns (all final within 456 ms);
what it learns is a low-rank change of the encoder's matrices: ``moonshine-live-base/en``, 300 steps
in 40 minutes of two cores, on 52 minutes of LibriSpeech's train-clean-100 and 16 of talks. Of 135
words of 8 other read sentences 3.7 % are wrong, 15.6 before, 1.5 offline
(tests/bench/results/live_speech.md). Its run, in tests/bench/results/moonshine_live, had 220 steps
of a schedule of 400 before 80 of one of 300. The small file is written by

    python -m streamzoo.train.low_rank runs/moonshine_live/weights.safetensors \\
        --of moonshine-base/en --rank 16 --out moonshine-live-base.en.safetensors
"""

from ..train.hearing import HearingRecipe, Recordings
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.tasks.hear import HearConfig

CONFIG = HearingRecipe(
    data=Recordings(sizes=(0.7, 1.0), held_out=("test-other",)),
    hear=HearConfig(rank=16, looks=((5, 15), (10, 10), (5, 5)), share=(0.6, 0.25, 0.15)),
    loop=LoopConfig(
        steps=300,
        batch=4,
        log_every=10,
        checkpoint_every=20,
        optim=OptimConfig(
            learning_rate=2e-3, warmup=15, final=0.02, weight_decay=0.0, ema=0.0, betas=(0.9, 0.98)
        ),
        tensorboard=False,
        out="runs/moonshine_live",
    ),
)
