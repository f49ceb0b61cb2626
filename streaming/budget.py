"""What a model's step needs per frame: products, bytes and memory, by XLA's own analysis."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ..layers.streaming import Params
from ..zoo.compress import running
from ..zoo.registry import Card, create_model, model_config
from ..zoo.traits import unrolled
from ..zoo.weights import shapes_like
from .step import Step

RATES = (8, 15, 30)  # frames/s


@dataclasses.dataclass(frozen=True)
class Budget:
    """Of one stream at T = 1.

    Attributes:
      macs: multiply-accumulates: half of the operations that XLA counts, so that what is not a
        product (norms, activations) is in it, too.
      parameter_bytes, carry_bytes, frame_bytes: of the weights, the state, one uint8 picture.
      peak_bytes: arguments, results and temporaries of the compiled step on this platform.
    """

    macs: int
    parameter_bytes: int
    carry_bytes: int
    frame_bytes: int
    peak_bytes: int

    @property
    def read_bytes(self) -> int:
        """What every frame has to read at least: all weights, the state, the picture."""
        return self.parameter_bytes + self.carry_bytes + self.frame_bytes

    def lines(self) -> dict[str, str]:
        """Facts for a card: per frame, and per second at the rates of cameras."""
        rates = "; ".join(
            f"{rate} frames/s: {self.macs * rate / 1e9:.2f} GMAC/s,"
            f" {self.read_bytes * rate / 1e6:,.0f} MB/s"
            for rate in RATES
        )
        return {
            "per frame": f"{self.macs / 1e9:.3f} GMAC, {self.read_bytes:,} bytes read",
            "per second": rates,
            "peak memory": f"{self.peak_bytes:,} bytes on {jax.default_backend()}",
        }


def operations(model: Any, params: Params, card: Card, size: tuple[int, int]) -> float:
    """Floating-point operations of one frame's step, of the program before optimisation (a fused
    product is a custom call that counts as 0). A loop is counted once: unroll the layers."""
    carry = jax.eval_shape(lambda: model.init_carry(1, size))
    frames = jax.ShapeDtypeStruct((1, 1, *size, 3), np.uint8)
    lowered = Step(model, params, card)._commit.lower(params, carry, frames, None, {})
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def budget(card: Card, params: Params | None = None) -> Budget:
    """The :class:`Budget` of a streaming model by its card; compiles its step.

    params: what it runs on, arrays or shapes, where they are not the floats it was made with.
    Raises ValueError: an offline model, which has no step; one of sound, text, prompts or latents.
    """
    if not card.streaming or card.task in ("track", "speech", "text", "generate"):
        raise ValueError(f"{card.name} has no step that takes frames alone: no budget per frame")
    model = create_model(card.name, **card.overrides)
    params = shapes_like(card.name, model) if params is None else params
    model = running(model, params)
    height, width = card.input_size
    size = height, width
    flat = unrolled(model_config(card.name, **card.overrides))
    whole = running(create_model(card.name, **{**card.overrides, **flat}), params)
    memory = Step(model, params, card).compile(1, 1, size).memory_analysis()
    count = lambda tree: sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
    # donated buffers, the carry's, are arguments and results at once
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Budget(
        macs=round(operations(whole, params, card, size) / 2),
        parameter_bytes=count(params),
        carry_bytes=count(jax.eval_shape(lambda: model.init_carry(1, size))),
        frame_bytes=3 * size[0] * size[1],
        peak_bytes=int(peak),
    )
