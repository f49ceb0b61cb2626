"""One vision transformer for DINOv2, DINOv3, EUPE, CLIP, SigLIP, SigLIP 2 and RADIO.

They differ in what stands in front of the patches (class and register tokens), in how a patch
knows its place (a learned table, resized as each project does it, or axial rotary angles), in a
few details of the blocks, and in how one vector is read out. All of that is data in the config;
the weights decide the rest. Frames are single: a clip is B frames.

Sources: Dosovitskiy et al. (arXiv 2010.11929); DINOv2 (2304.07193); registers (2309.16588);
DINOv3 (2508.10104); EUPE (2603.22387); CLIP (2103.00020); SigLIP (2303.15343); SigLIP 2
(2502.14786); AM-RADIO (2312.06709).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.kernels.attention import attention
from ...layers.positions import axial_rope, resample_table, resize_matrix
from ...layers.ranks import to_rank
from ...layers.streaming import DType
from ...layers.transformer import Block, BlockConfig, BlockStack, Mlp, Taps, layer_norm
from ..checks import check_images, check_taps
from ..ranges import Count, Positive, Size, Weight, Whole
from .outputs import EncoderOutput, through

Array = jax.Array

TAPS = ("embedding", "hidden", "attention")
POSITIONS = ("learned", "rope", "none")
# name -> how a learned table comes to another grid: (kernel, antialias)
RESIZE = {
    "bicubic": ("bicubic", False),
    "bilinear": ("bilinear", False),
    "bicubic-aa": ("bicubic", True),
    "bilinear-aa": ("bilinear", True),
    "crop": ("bilinear", False),  # RADIO: to a square of the longer side, then the upper left
}
POOLS = ("class", "map", "mean", "none")
NORMS = ("tokens", "pooled", "none")


@dataclasses.dataclass(frozen=True)
class ImageViTConfig:
    """Shapes of an image encoder.

    Attributes:
      image_size: (height, width) the model is meant for; any multiple of ``patch`` runs.
      mlp_ratio: hidden width of the MLP over ``dim``.
      gated: an MLP of the form down(act(gate(x)) * up(x)).
      biased: which of queries, keys and values ("qkv") have a bias.
      layer_scale: initial gain of the branches, None for no gains.
      patch_bias: the patch projection has a bias.
      class_tokens, registers: learned tokens in front of the patches, in this order.
      positions: ``learned`` table, ``rope`` (axial angles, base ``rope_base``) or ``none``.
      table_grid: (rows, columns) of the learned table; () means that of ``image_size``.
      class_position: the table has rows for the class tokens, before those of the patches.
      resize: how the table comes to another grid, one of ``RESIZE``.
      pre_norm: a norm before the first block (CLIP).
      final_norm: the last norm is of all ``tokens``, of the ``pooled`` vector alone (CLIP), or
        there is ``none`` (RADIO).
      pool: ``class`` tokens (the ones in ``pool_tokens``, side by side), ``map`` (attention of a
        learned query, SigLIP), ``mean`` of the patches, or ``none``.
      ragged: sides that are no multiple of ``patch`` are taken; the rest at the right and below is
        not seen, as a strided convolution does not (SigLIP's 384 pixels in patches of 14).
      projection: width of a linear map of the pooled vector, 0 for none.
      dtype: compute type; parameters are fp32.
      unroll: blocks per iteration of the scan over depth.
    """

    image_size: Size = (224, 224)
    patch: Count = 16
    dim: Count = 384
    depth: Count = 12
    heads: Count = 6
    mlp_ratio: Positive = 4.0
    activation: str = "gelu"
    gated: bool = False
    biased: str = "qkv"
    layer_scale: Weight | None = None
    eps: Positive = 1e-6
    patch_bias: bool = True
    class_tokens: Whole = 1
    registers: Whole = 0
    positions: str = "learned"
    table_grid: tuple[Count, ...] = ()
    class_position: bool = True
    resize: str = "bicubic"
    rope_base: Positive = 100.0
    pre_norm: bool = False
    final_norm: str = "tokens"
    pool: str = "class"
    pool_tokens: tuple[Whole, ...] = (0,)
    projection: Whole = 0
    ragged: bool = False
    dtype: DType = "float32"
    unroll: Count = 1

    def __post_init__(self):
        choices = [
            ("positions", POSITIONS),
            ("resize", tuple(RESIZE)),
            ("pool", POOLS),
            ("final_norm", NORMS),
        ]
        for field, known in choices:
            if getattr(self, field) not in known:
                raise ValueError(f"{field} {getattr(self, field)!r}: choose from {known}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if not self.ragged and any(side % self.patch for side in self.image_size):
            raise ValueError(f"image size {self.image_size}: not a multiple of {self.patch}")
        if len(self.table_grid) not in (0, 2):
            raise ValueError(f"table_grid {self.table_grid}: give (rows, columns), or () for none")
        if self.pool == "class" and not set(self.pool_tokens) <= set(range(self.class_tokens)):
            raise ValueError(
                f"pool_tokens {self.pool_tokens}: there are {self.class_tokens} class tokens;"
                ' pool="mean" needs none'
            )

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches."""
        return self.class_tokens + self.registers

    @property
    def table(self) -> tuple[int, int]:
        """(rows, columns) of the learned table."""
        rows, cols = self.table_grid or (side // self.patch for side in self.image_size)
        return rows, cols

    def block(self) -> BlockConfig:
        """What every block is."""
        return BlockConfig(
            dim=self.dim,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            activation=self.activation,
            eps=self.eps,
            layer_scale=self.layer_scale,
            gated=self.gated,
            biased=self.biased,
            dtype=self.dtype,
        )


class AttentionPool(nn.Module):
    """A learned query attends to the tokens, then an MLP: x [B, N, D] -> [B, D].

    ``keep`` [B, N] bool: the tokens it sees, None for all.

    Source: SigLIP's head (Zhai et al., arXiv 2106.04560, section 3.4).
    """

    dim: int
    heads: int
    mlp_ratio: float
    activation: str
    eps: float
    dtype: DType = jnp.float32

    def setup(self):
        self.probe = self.param("probe", nn.initializers.normal(0.02), (1, self.dim))
        self.query = nn.Dense(self.dim, dtype=self.dtype)
        self.kv = nn.Dense(2 * self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)
        self.norm = layer_norm(self.eps, self.dtype)
        hidden = round(self.dim * self.mlp_ratio)
        self.mlp = Mlp(self.dim, hidden, self.activation, self.dtype)

    def __call__(self, x: Array, keep: Array | None = None) -> Array:
        split = (self.heads, self.dim // self.heads)
        q = self.query(self.probe).reshape(1, 1, *split)
        k, v = (a.reshape(*x.shape[:2], *split) for a in jnp.split(self.kv(x), 2, axis=-1))
        mask = None if keep is None else keep[:, None, None]
        y = attention(jnp.broadcast_to(q, (x.shape[0], *q.shape[1:])), k, v, mask=mask)
        y = self.out(y.reshape(x.shape[0], self.dim))
        return y + self.mlp(self.norm(y))


class ImageViT(nn.Module):
    """Features of single frames; keeps no state.

    Block by block: ``tokens = embed(frames)``, then a :class:`Block` of ``config.block()`` with
    slice i of the parameters under ``blocks/layer0`` and the angles of :meth:`angles`, then
    ``read(tokens, rows, cols)``. :meth:`__call__` is just that, scanned.
    """

    config: ImageViTConfig
    task = "encode"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        small = nn.initializers.normal(0.02)
        self.patch_embed = nn.Dense(cfg.dim, use_bias=cfg.patch_bias, dtype=dtype)
        if cfg.class_tokens:
            self.class_tokens = self.param("class_tokens", small, (cfg.class_tokens, cfg.dim))
        if cfg.registers:
            self.registers = self.param("registers", small, (cfg.registers, cfg.dim))
        if cfg.positions == "learned":
            rows, cols = cfg.table
            extra = cfg.class_tokens if cfg.class_position else 0
            self.table = self.param("positions", small, (extra + rows * cols, cfg.dim))
        if cfg.pre_norm:
            self.norm_pre = layer_norm(cfg.eps, dtype)
        self.blocks = BlockStack(cfg.block(), cfg.depth, unroll=cfg.unroll)
        if cfg.final_norm != "none":
            self.norm = layer_norm(cfg.eps, dtype)
        if cfg.pool == "map":
            self.pool = AttentionPool(
                cfg.dim, cfg.heads, cfg.mlp_ratio, cfg.activation, cfg.eps, dtype
            )
        if cfg.projection:
            self.projection = nn.Dense(cfg.projection, use_bias=False, dtype=dtype)

    def __call__(self, frames: Array, taps: Taps = ()) -> EncoderOutput:
        """Features of frames.

        Args:
          frames: [B, H, W, 3] floats, normalised as the model's card says; H and W multiples of
            the patch.
          taps: names of intermediates, see :func:`~streamzoo.zoo.encode.outputs.through`; N
            tokens: class, registers, patches row by row.

        Returns:
          EncoderOutput: features [B, H / p, W / p, D], pooled, prefix [B, class + registers, D].

        Raises:
          ValueError: frames of the wrong shape or type, unknown taps.
        """
        check_taps(taps, TAPS)
        x = self.embed(frames)
        rows, cols = (side // self.config.patch for side in frames.shape[1:3])
        x, found = through(self.blocks, x, taps, self.angles(rows, cols))
        return self.read(x, rows, cols).replace(taps=found or None)

    def embed(self, frames: Array) -> Array:
        """frames [B, H, W, 3] -> the tokens before the first block [B, N, D]."""
        cfg = self.config
        p = cfg.patch
        if cfg.ragged and jnp.ndim(frames) == 4:
            height, width = (side - side % p for side in frames.shape[1:3])
            frames = frames[:, :height, :width]
        check_images(frames, p, type(self).__name__)
        batch, height, width, _ = frames.shape
        rows, cols = height // p, width // p
        x = frames.reshape(batch, rows, p, cols, p, 3).swapaxes(2, 3)
        x = self.patch_embed(x.reshape(batch, rows * cols, p * p * 3))
        first = self.class_tokens if cfg.class_tokens else jnp.zeros((0, cfg.dim))
        if cfg.positions == "learned":
            extra = len(self.table) - cfg.table[0] * cfg.table[1]
            if extra:
                first = first + self.table[:extra]
            x = x + to_rank(self._resized(self.table[extra:], rows, cols).astype(x.dtype), x)
        if cfg.registers:
            first = jnp.concatenate([first, self.registers])
        if cfg.prefix:
            first = jnp.broadcast_to(first.astype(x.dtype), (batch, cfg.prefix, cfg.dim))
            x = jnp.concatenate([first, x], axis=1)
        return self.norm_pre(x) if cfg.pre_norm else x

    def _resized(self, table: Array, rows: int, cols: int) -> Array:
        """The learned table on the grid of the frame, [rows * cols, D]."""
        old, (method, antialias) = self.config.table, RESIZE[self.config.resize]
        if self.config.resize != "crop":
            if old == (rows, cols):
                return table
            down = resize_matrix(old[0], rows, method, antialias)
            across = resize_matrix(old[1], cols, method, antialias)
        else:
            longer = max(rows, cols)
            down = resize_matrix(old[0], longer, method)[:rows]
            across = resize_matrix(old[1], longer, method)[:cols]
        grid = resample_table(table.reshape(*old, -1), down, across)
        return grid.reshape(rows * cols, -1)

    @nn.nowrap
    def angles(self, rows: int, cols: int) -> tuple[Array, Array] | None:
        """The rotary angles (cos, sin) of all tokens, None for a model without."""
        cfg = self.config
        if cfg.positions != "rope":
            return None
        head = cfg.dim // cfg.heads
        return axial_rope(rows, cols, head, prefix=cfg.prefix, base=cfg.rope_base, turn=2 * np.pi)

    def read(self, x: Array, rows: int, cols: int) -> EncoderOutput:
        """The tokens after the last block [B, N, D] -> what the model answers."""
        cfg = self.config
        if cfg.final_norm == "tokens":
            x = self.norm(x)
        features = x[:, cfg.prefix :]
        pooled = None
        if cfg.pool == "class":
            pooled = x[:, jnp.asarray(cfg.pool_tokens)].reshape(x.shape[0], -1)
        elif cfg.pool == "mean":
            pooled = features.mean(axis=1)
        elif cfg.pool == "map":
            pooled = self.pool(x)
        if pooled is not None and cfg.final_norm == "pooled":
            pooled = self.norm(pooled)
        if pooled is not None and cfg.projection:
            pooled = self.projection(pooled)
        return EncoderOutput(
            features=features.reshape(x.shape[0], rows, cols, cfg.dim),
            pooled=pooled,
            prefix=x[:, : cfg.prefix] if cfg.prefix else None,
        )


def block_of(config: ImageViTConfig) -> Block:
    """One block, unbound: ``apply({"params": slice of blocks/layer0}, (), x, rope=angles)``."""
    return Block(config.block())
