"""What VGGT reads out of its tokens: cameras by refinement, maps by a decoder."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import DType
from ....layers.transformer import BlockStack, gelu, layer_norm
from ..decoder import FACTORS, Neck
from ..model import DepthHead
from .config import VGGTConfig

Array = jax.Array
CODE = 9


class CameraHead(nn.Module):
    """Codes of cameras from the camera tokens of all views: several rounds, each adds a change.

    Source: Wang et al., VGGT (arXiv 2503.11651), section 3.3.
    """

    config: VGGTConfig

    def setup(self):
        cfg, dtype = self.config, jnp.dtype(self.config.dtype)
        width = 2 * cfg.dim
        self.token_norm, self.trunk_norm = layer_norm(1e-5, dtype), layer_norm(1e-5, dtype)
        self.plain_norm = layer_norm(1e-6, dtype, False)
        self.empty = self.param("empty", nn.initializers.zeros, (CODE,))
        self.embed = nn.Dense(width, dtype=dtype)
        self.modulation = nn.Dense(3 * width, dtype=dtype)
        self.trunk = BlockStack(cfg.camera_block(), cfg.camera_depth)
        self.up, self.down = nn.Dense(cfg.dim, dtype=dtype), nn.Dense(CODE, dtype=dtype)

    def __call__(self, tokens: Array, mask: Array | None = None) -> list[Array]:
        """The codes after each round.

        Args:
          tokens: [B, S, 2 D], the camera token of every view.
          mask: [B, S] bool, views that are there; None: all.

        Returns:
          ``rounds`` codes [B, S, 9], fields of view not below 0.
        """
        tokens, found, code = self.token_norm(tokens), [], None
        seen = None if mask is None else mask[:, None, None]
        for _ in range(self.config.rounds):
            known = (
                jnp.broadcast_to(self.empty, (*tokens.shape[:2], CODE)) if code is None else code
            )
            # a round learns to mend what came, not to make it mendable
            shift, scale, gate = jnp.split(
                self.modulation(nn.silu(self.embed(jax.lax.stop_gradient(known)))), 3, axis=-1
            )
            x = tokens + gate * (self.plain_norm(tokens) * (1 + scale) + shift)
            carry = self.trunk.init_carry(x.shape[0], 0)
            _, x, _ = self.trunk(carry, x[:, None], mask=seen)
            change = self.down(gelu(self.up(self.trunk_norm(x[:, 0])))).astype(jnp.float32)
            code = change if code is None else code + change
            found.append(jnp.concatenate([code[..., :7], nn.relu(code[..., 7:])], axis=-1))
        return found


def places(height: int, width: int, dim: int, aspect: float) -> Array:
    """A tenth of the sines and cosines of where a cell is: float32 [height, width, dim].

    Cells lie in a rectangle of ``aspect`` (width over height) whose diagonal is 2.
    """
    diagonal = np.hypot(aspect, 1.0)
    rate = 1 / 100 ** (np.arange(dim // 4) / (dim // 4))

    def line(cells: int, span: float) -> Array:
        edge = span * (cells - 1) / cells
        angle = np.linspace(-edge, edge, cells)[:, None] * rate
        both = 0.1 * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
        return jnp.asarray(both, jnp.float32)

    # of lines alone: all of it would be a constant of 137 MB in the program
    shape = (height, width, dim // 2)
    across = jnp.broadcast_to(line(width, aspect / diagonal)[None], shape)
    down = jnp.broadcast_to(line(height, 1 / diagonal)[:, None], shape)
    return jnp.concatenate([across, down], axis=-1)


class MapHead(nn.Module):
    """Maps [M, H, W, outputs] of the patches' tokens of four pairs. The last channel becomes a
    certainty, 1 + exp."""

    config: VGGTConfig
    outputs: int
    dtype: DType = jnp.float32

    def setup(self):
        cfg = self.config
        self.norm = layer_norm(1e-5, self.dtype)
        self.neck = Neck(cfg.widths, cfg.fused, rectified=True, dtype=self.dtype)
        self.head = DepthHead(cfg.fused, cfg.hidden, self.dtype, self.outputs)

    def __call__(self, tokens: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """tokens [4, M, h * w, 2 D] of frames of ``size`` -> (values [M, H, W, outputs - 1],
        certainty [M, H, W])."""
        cfg = self.config
        rows, cols = (side // cfg.patch for side in size)
        aspect = size[1] / size[0]
        maps = [self.norm(x).reshape(-1, rows, cols, x.shape[-1]) for x in tokens]
        where = [places(rows, cols, width, aspect) for width in cfg.widths]
        assert len(where) == len(FACTORS)
        fused = self.neck(maps, where)
        last = places(*size, cfg.fused // 2, aspect)
        raw = self.head(fused, size, last).astype(jnp.float32)
        return raw[..., :-1], 1 + jnp.exp(raw[..., -1])
