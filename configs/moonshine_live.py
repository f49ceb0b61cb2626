"""A recogniser that hears as it is said, taught by the offline one, without labels.

    python -m streamzoo.train --config configs/moonshine_live.py --set data.path=RECORDINGS

RECORDINGS is a folder of English speech (wav, flac, mp3), an hour or more. The student is
Moonshine-base whose encoder sees hops of 10 features and 10 behind them (456 ms); what it learns is
a low-rank change of the encoder's matrices. Not run to its end yet: there is no figure to expect.
Without it 15.6 % of the words of 8 read sentences are wrong, offline 1.5 %
(tests/bench/results/live_speech.md). ``hear.looks=((5,15),(10,10)) hear.share=0.5,0.5``
teaches one set of weights several of them, one drawn for every batch.
"""

from ..train.hearing import HearingRecipe, Recordings
from ..train.loop import LoopConfig
from ..train.optim import OptimConfig
from ..train.tasks.hear import HearConfig

CONFIG = HearingRecipe(
    data=Recordings(sizes=(0.7, 1.0)),
    hear=HearConfig(rank=6, looks=((10, 10),), share=(1.0,)),
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
