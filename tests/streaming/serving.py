"""A stub model's engine for the server's tests, and what a stream of it should answer."""

import asyncio

import jax
import numpy as np

from streamzoo.streaming import Step
from streamzoo.streaming.engine import Costs, Engine

from .stub import CARD, Stub, params

STEP = Step(Stub(), params(), CARD)


def engine(*, step=STEP, slots=4):
    bucket = min(4, slots)
    costs = Costs({bucket: [1e-4]})
    return Engine(step, slots=slots, buckets=(bucket,), max_load=1e9, costs=costs)


def alone(frames, step=STEP, batch=4):
    """The outputs of a stream that nothing ever interrupts, one dict of lists per frame."""
    state = step.init_carry(batch)
    valid = np.arange(batch)[:, None] == 0
    outputs = []
    for frame in frames:
        images = np.zeros((batch, 1, *frame.shape), np.uint8)
        images[0, 0] = frame
        state, out = step(state, images, valid)
        outputs.append(jax.tree.map(lambda a: np.asarray(a)[0, 0], out))
    return outputs


def logits(outputs):
    return np.asarray([o["logits"] for o in outputs])


def run(main, seconds=60):
    asyncio.run(asyncio.wait_for(main, seconds))
