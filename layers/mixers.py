"""Temporal mixers by name: interchangeable memories for one slot of a causal ViT.

Every mixer maps x [B, T, N, D] to the same shape with a constant-size carry, one memory per token
position; ``Mix`` names one, with its options and its place in the block.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from .conv import CausalConv
from .favor import Favor
from .gated_attention import GatedAttention
from .gated_delta import GatedDelta
from .knn_memory import KNNMemory
from .lstm import LSTM
from .mamba2 import Mamba2
from .nsa import NSA
from .rglru import RGLRUMixer
from .shift import Shift
from .window import WindowAttention

# name -> (module, place in the block unless said otherwise)
MIXERS: dict[str, tuple[Any, str]] = {
    "shift": (Shift, "stream"),
    "lstm": (LSTM, "residual"),
    "rglru": (RGLRUMixer, "residual"),
    "gated_delta": (GatedDelta, "residual"),
    "window": (WindowAttention, "residual"),
    "conv": (CausalConv, "residual"),
    "mamba2": (Mamba2, "residual"),
    "favor": (Favor, "residual"),
    "gated_attention": (GatedAttention, "residual"),
    "nsa": (NSA, "residual"),
    "knn": (KNNMemory, "residual"),
}
PLACES = ("stream", "input", "residual", "before")


@dataclasses.dataclass(frozen=True)
class Mix:
    """A temporal mixer by name, e.g. ``Mix("shift", options=(("fraction", 1 / 4),))``.

    Attributes:
      kind: a key of :data:`MIXERS`, or ``"none"``.
      place: one of :data:`PLACES` (see ``vit.Block``); empty takes the default.
      options: (name, value) pairs passed to the mixer's constructor.

    Raises:
      ValueError: unknown kind, place or option, with the nearest names.
    """

    kind: str
    place: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        if self.kind == "none":
            return
        if self.kind not in MIXERS:
            near = ", ".join(difflib.get_close_matches(self.kind, MIXERS, n=2) or sorted(MIXERS))
            raise ValueError(f"unknown temporal mixer {self.kind!r}; did you mean {near}?")
        module, place = MIXERS[self.kind]
        if not self.place:
            object.__setattr__(self, "place", place)
        if self.place not in PLACES:
            raise ValueError(f"place {self.place!r} of mixer {self.kind!r} is not one of {PLACES}")
        fields = {f.name for f in dataclasses.fields(module)} - {"parent", "name", "dim", "dtype"}
        for name, _ in self.options:
            if name not in fields:
                raise ValueError(
                    f"mixer {self.kind!r} has no option {name!r}; it has {sorted(fields)}"
                )

    def build(self, dim: int, dtype: Any = jnp.float32, **module: Any) -> nn.Module:
        """The mixer for tokens of width ``dim``, computing in ``dtype``.

        ``module`` goes to the constructor (``parent=None`` outside of the model's setup).
        """
        mixer = MIXERS[self.kind][0](dim=dim, dtype=dtype, **dict(self.options), **module)
        if mixer.latency:
            raise ValueError(
                f"mixer {self.kind!r} looks {mixer.latency} frames ahead; inside a block the "
                "residual does not wait for it: chain it in front of the model instead"
            )
        return mixer


def mix(kind: str, place: str = "", **options: Any) -> Mix:
    """``mix("shift", fraction=1/4)``: a :class:`Mix` with keyword options."""
    return Mix(kind, place, tuple(sorted(options.items())))
