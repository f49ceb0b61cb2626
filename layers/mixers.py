"""Temporal mixers by name: interchangeable memories for one slot of a causal ViT.

Every mixer maps x [B, T, N, D] to the same shape with a constant-size carry, one memory per token
position; ``Mix`` names one, with its options and its place in the block.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from .streaming import DType

# name -> (file of layers/, class, place in the block unless said otherwise). A file is imported on
# the first use of its mixer: each brings its kernels.
MIXERS: dict[str, tuple[str, str, str]] = {
    "shift": ("shift", "Shift", "stream"),
    "lstm": ("lstm", "LSTM", "residual"),
    "rglru": ("rglru", "RGLRUMixer", "residual"),
    "gated_delta": ("gated_delta", "GatedDelta", "residual"),
    "window": ("window", "WindowAttention", "residual"),
    "conv": ("conv", "CausalConv", "residual"),
    "mamba2": ("mamba2", "Mamba2", "residual"),
    "favor": ("favor", "Favor", "residual"),
    "gated_attention": ("gated_attention", "GatedAttention", "residual"),
    "nsa": ("nsa", "NSA", "residual"),
    "knn": ("knn_memory", "KNNMemory", "residual"),
    "lif": ("lif", "LIF", "residual"),
}
PLACES = ("stream", "input", "residual", "before")


def mixer_class(kind: str) -> type[nn.Module]:
    """The module class of a key of :data:`MIXERS`."""
    file, name, _ = MIXERS[kind]
    return getattr(importlib.import_module(f".{file}", __package__), name)


@dataclasses.dataclass(frozen=True)
class Mix:
    """A temporal mixer by name, e.g. ``Mix("shift", options=(("fraction", 1 / 4),))``.

    Attributes:
      kind: a key of :data:`MIXERS`, or ``"none"``.
      place: one of :data:`PLACES` (see ``transformer.Block``); empty takes the default.
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
        if not self.place:
            object.__setattr__(self, "place", MIXERS[self.kind][2])
        if self.place not in PLACES:
            raise ValueError(f"place {self.place!r} of mixer {self.kind!r} is not one of {PLACES}")
        if not self.options:
            return
        module: Any = mixer_class(self.kind)
        fields = {f.name for f in dataclasses.fields(module)} - {"parent", "name", "dim", "dtype"}
        for name, _ in self.options:
            if name not in fields:
                raise ValueError(
                    f"mixer {self.kind!r} has no option {name!r}; it has {sorted(fields)}"
                )

    def build(self, dim: int, dtype: DType = jnp.float32, **module: Any) -> nn.Module:
        """The mixer for tokens of width ``dim``, computing in ``dtype``.

        ``module`` goes to the constructor (``parent=None`` outside of the model's setup).
        """
        make: Any = mixer_class(self.kind)
        mixer = make(dim=dim, dtype=dtype, **dict(self.options), **module)
        if mixer.latency:
            raise ValueError(
                f"mixer {self.kind!r} looks {mixer.latency} frames ahead; inside a block the "
                "residual does not wait for it: chain it in front of the model instead"
            )
        return mixer


def mix(kind: str, place: str = "", **options: Any) -> Mix:
    """``mix("shift", fraction=1/4)``: a :class:`Mix` with keyword options."""
    return Mix(kind, place, tuple(sorted(options.items())))
