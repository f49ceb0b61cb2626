"""A tiny student with weights, for tests. As a program: `streamzoo` that knows this student."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import streamzoo
from streamzoo.layers.mixers import mix
from streamzoo.streaming import Result
from streamzoo.zoo import registry
from streamzoo.zoo.action import CausalViT, StudentConfig
from streamzoo.zoo.registry import Card

NAME, SIZE = "tsa-test16/tiny", (32, 48)
CLASSES = ("biking", "walking", "jumping")
CONFIG = StudentConfig(
    image_size=SIZE, dim=32, depth=2, heads_per_block=2, num_classes=3, max_boxes=3,
    person_threshold=0.0, temporal=(mix("shift"),),
)  # fmt: skip
CARD = Card(
    NAME, summary="a tiny student", input_size=SIZE, classes=CLASSES, multi_label=False,
    weights="tiny.safetensors",
)  # fmt: skip


def add(home: Path) -> None:
    """Registers the student and puts its weights where $STREAMZOO_HOME will be."""
    registry.register(NAME, CausalViT, CONFIG, CARD)
    path = home / "tiny.safetensors"
    if not path.exists():
        _, params = streamzoo.init_params(NAME, seed=3)
        streamzoo.save(path, params, {"model": NAME, "config": CONFIG})


def scored(result: Result[Any]) -> np.ndarray:
    """The scores of an answer that has some."""
    scores = result.scores()
    assert scores is not None
    return scores


def remove() -> None:
    registry._ENTRIES.pop(NAME)


if __name__ == "__main__":
    from streamzoo.streaming.cli import main

    add(Path(os.environ["STREAMZOO_HOME"]))
    sys.exit(main())
