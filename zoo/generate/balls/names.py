"""The generator of balls by name: Wan's transformer, as small as it goes."""

from __future__ import annotations

from ....layers.rollout import Keep, Levels, Rollout
from ....layers.rollout.positions import Ranked
from ....layers.rollout.read import Read
from ...registry import Card, register
from ..wan.model import Wan, WanConfig
from ..wan.names import some_latents
from .picture import CLASSES, FRAME_RATE, SIDE

CONFIG = WanConfig(
    channels=2 * SIDE, image_size=(1, 1), patch=1, dim=64, hidden=192, depth=2, heads=4,
    frequencies=32, text_dim=8, text_length=1,
)  # fmt: skip


STEPS = (1000, 750, 500, 250)


def stream(sinks: int = 3, recent: int = 6, strength: float = 1.0) -> Rollout:
    """How the balls are streamed: four passes a block, the first block and the last two in memory,
    positions by rank, so that a stream has no end.

    strength: of video to video, 0 to 1: a source is made anew from the levels up to that share.

    Raises:
      ValueError: a strength at which there is no level.
    """
    steps = [step for step in STEPS if step <= 1000 * strength]
    if not steps or strength > 1:
        raise ValueError(f"strength {strength:g}: give 0.25 to 1; at 1 nothing is left of a source")
    levels = Levels.few(*steps, shift=3.0)
    read = Read(sinks + recent + CONFIG.block, positions=Ranked())
    return Rollout(Keep(sinks=sinks, recent=recent), read, levels)


register(
    "balls-tiny",
    Wan,
    CONFIG,
    Card(
        "balls-tiny",
        summary="balls that bounce in a box, made three frames at a time without end",
        classes=CLASSES,
        multi_label=False,
        input_size=(SIDE, SIDE),
        frame_rate=FRAME_RATE,
        value_range=(-1.0, 1.0),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        streaming=False,
    ),
    inputs=some_latents,
)
