"""A registered model's step compiled with a donated carry, for a CPU or for one chip of a v5e."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from streamzoo.layers.kernels.ring_attention import Ring
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.weights import shapes_like

from . import moves, targets

PLATFORMS = ("cpu", "tpu")


@dataclass(frozen=True)
class Step:
    """Of one frame of one stream: bytes of the carry, of what is new in it, of what is moved."""

    carry: int
    new: int
    moved: int
    temporaries: int
    flops: float
    text: str


def new_bytes(carry: Any) -> int:
    """What one frame changes: its keys and values in a ring, the whole of any other memory."""
    total = 0
    for part in jax.tree.leaves(carry, is_leaf=lambda a: isinstance(a, Ring)):
        if isinstance(part, Ring):
            wide = [a for a in (part.k, part.v, part.k_scale, part.v_scale) if a is not None]
            total += sum(targets.size(a) // a.shape[2] for a in wide)
            total += targets.size((part.pos, part.seen))
        else:
            total += targets.size(part)
    return total


def compiled(name: str, platform: str) -> Step:
    """The step of a registered name; skips where libtpu is wanted and absent."""
    card = model_card(name)
    model: Any = create_model(name, **card.overrides)
    device = targets.topology("v5e").devices[0] if platform == "tpu" else jax.devices("cpu")[0]
    there = NamedSharding(Mesh(np.array([device]), ("x",)), PartitionSpec())
    place = lambda tree: jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there), tree
    )
    carry = jax.eval_shape(lambda: model.init_carry(1, card.input_size))
    frames = jax.ShapeDtypeStruct((1, 1, *card.input_size, 3), np.float32)
    run = jax.jit(lambda *a: model.apply(*a), donate_argnums=1)
    program = run.lower(place(shapes_like(name, model)), place(carry), place(frames)).compile()
    text, repeats = program.as_text() or "", card_repeats(model)
    return Step(
        targets.size(carry),
        new_bytes(carry),
        moves.moved(text, repeats).total,
        program.memory_analysis().temp_size_in_bytes,
        (program.cost_analysis() or {}).get("flops", 0.0),
        text,
    )


def card_repeats(model: Any) -> int:
    """Turns of the loop over depth, where a program does not tell them."""
    config = model.config
    return config.depth // len(config.temporal)
