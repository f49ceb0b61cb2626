"""What a block is: one frozen value that travels whole."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from ..streaming import DType
from .activations import ACTIVATIONS
from .approximate import Approximate
from .experts import ExpertsConfig

NORMS = ("layer", "rms")
QK_NORMS = (None, "head", "all", "layer")


@dataclass(frozen=True)
class BlockConfig:
    """Options of a :class:`~streamzoo.layers.transformer.Block`; the default is a ViT's.

    Attributes:
      dim: channels D of a token.
      heads: of the queries.
      kv_heads: of keys and values, a divisor of ``heads``; None takes ``heads``.
      head_dim: width of a head; None takes dim / heads.
      biased: which of queries, keys and values have a bias ("qkv", "qv", "").
      out_bias, mlp_bias: the attention's output and the MLP's layers have a bias.
      qk_norm: a norm of queries and keys: RMS per ``head`` (Qwen3) or over ``all`` heads together
        (Wan), a ``layer`` norm per head (VGGT), or None.
      qk_eps: of that norm; None takes ``eps``.
      softcap: bound of the attention's logits, cap * tanh(logits / cap); None for none.
      causal: a token sees itself and those before it within its frame (texts).
      window: of the tokens before it, itself included, how many it sees; needs ``causal``.
      approximate: attention in linear time in place of the full one (teachers); None for full.
      cross: width of a context that a second attention reads; None for no such attention.
      modulated: a condition shifts, scales and gates both branches (diffusion transformers); the
        two norms then have no parameters of their own.
      mlp_ratio: hidden width of the MLP over ``dim``.
      activation: a name of ``ACTIVATIONS``.
      gated: an MLP of the form down(act(gate(x)) * up(x)).
      experts: of the blocks whose ``feed`` is ``experts``.
      norm: ``layer`` or ``rms``.
      eps: of the norms.
      layer_scale: initial gain of the branches, None for no gains.
      mix_norm: norm in front of a temporal mixer, ``layer`` or ``rms``.
      dtype: compute type; parameters are fp32.

    Raises:
      ValueError: sizes that do not divide, or a name that is not known.
    """

    dim: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    biased: str = "qkv"
    out_bias: bool = True
    mlp_bias: bool = True
    qk_norm: str | None = None
    qk_eps: float | None = None
    softcap: float | None = None
    causal: bool = False
    window: int | None = None
    approximate: Approximate | None = None
    cross: int | None = None
    modulated: bool = False
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    gated: bool = False
    experts: ExpertsConfig | None = None
    norm: str = "layer"
    eps: float = 1e-6
    layer_scale: float | None = None
    mix_norm: str = "layer"
    dtype: DType = jnp.float32

    def __post_init__(self):
        if self.head_dim is None and self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if self.heads % self.groups:
            raise ValueError(f"kv_heads {self.groups} does not divide heads {self.heads}")
        if self.biased not in ("qkv", "qv", "q", "v", "k", "kv", "qk", ""):
            raise ValueError(f"biased {self.biased!r}: some of 'qkv', in this order")
        for field, known in (
            ("norm", NORMS),
            ("mix_norm", NORMS),
            ("qk_norm", QK_NORMS),
            ("activation", tuple(ACTIVATIONS)),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} {getattr(self, field)!r}: choose from {known}")
        if self.window is not None and not self.causal:
            raise ValueError(f"window {self.window} needs causal=True")
        if self.approximate is not None and (self.causal or self.softcap is not None):
            raise ValueError(f"{self.approximate.kind} attention takes neither causal nor softcap")
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))  # "float32" works, too

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_dim or self.dim // self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return round(self.dim * self.mlp_ratio)
