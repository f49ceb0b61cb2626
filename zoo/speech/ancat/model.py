"""An attention transducer whose frames decide how far they look ahead, and pay for it.

After Sunkara et al., "Adaptive Non-Causal Attention Transducer" (arXiv 2305.04159), of which the
abstract was read: what a layer is stands in ``layers/signal/adaptive.py`` and is our design; front
end, prediction network and heads are those of FastConformer, so :class:`~..fastconformer.recognise.
Recogniser` and ``streamzoo listen`` take it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ....layers.signal.adaptive import AdaptiveBlock
from ....layers.signal.emitted import Series, joined
from ....layers.streaming import Array
from ...ranges import Count, Whole
from ..fastconformer.model import FastConformer, FastConformerConfig
from ..hearing import check_audio


@dataclasses.dataclass(frozen=True)
class ANCATConfig(FastConformerConfig):
    """Shapes of a recogniser; ``kernel`` and ``ahead`` of FastConformer count for nothing.

    Attributes:
      most_ahead: frames of 80 ms that a frame of each block looks ahead at most; 0 is causal.
    """

    dim: Count = 144
    hidden: Count = 576
    heads: Count = 4
    depth: Count = 4
    channels: Count = 64
    before: Count = 64
    ahead: Whole = 0
    vocabulary: Count = 128
    predictor: Count = 144
    most_ahead: Whole = 2


class ANCAT(FastConformer):
    """[B, T] samples -> features [B, F, dim], one per 1280 samples, each as soon as what it wants
    to see has come; ``latency`` is that of one that wants all it can have.

    ``learn`` gives a batch of whole utterances as it is to be learned, its look-ahead soft.
    """

    config: ANCATConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    @nn.nowrap
    def blocks(self, **free: Any) -> tuple[Any, ...]:
        c = self.config
        return tuple(AdaptiveBlock(c.block, c.most_ahead, c.before, **free) for _ in range(c.depth))

    def learn(self, audio: Array, soft: bool = True) -> tuple[Array, Array]:
        """Utterances of one length, audio [B, T] -> (features [B, F, dim], frames [B, depth, F]
        that each of them looked ahead in each block).

        With ``soft`` they are not whole, and their mean is the price to add to a loss of ``ctc`` or
        ``lattice``; without it the features are those of the stream.

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "ANCAT")
        first = len(self.net.layers) - self.config.depth
        front = Series((self.mel, *self.net.layers[:first]), parent=None)
        carry, out = front(front.init_carry(len(audio)), audio)
        _, rest = front.flush(carry)
        frames = front.length(audio.shape[1])
        parts = joined([out] if rest is None else [out, rest])
        order = jnp.argsort(~parts.valid, axis=1, stable=True)[:, :frames]
        x, ahead = jnp.take_along_axis(parts.x, order[..., None], axis=1), []
        for block in self.net.layers[first:]:
            x, looked = block.clip(x, soft=soft)
            ahead.append(looked)
        return x, jnp.stack(ahead, axis=1)


def priced(loss: Array, ahead: Array, price: float) -> Array:
    """A loss with what its look-ahead costs: ``price`` per frame of 80 ms, of all blocks together.

    ahead: [B, depth, F] of :meth:`ANCAT.learn`.
    """
    return loss + price * jnp.sum(jnp.mean(ahead, axis=(0, 2)))
