"""A recompute cache for transformer blocks: of a new frame, only the tokens that changed are
computed; the rest keep what a reference frame gave them.

Source: the Cacher of STC (streaming token compression, see the README's table of systems). Every
``period`` frames all tokens are computed and become the reference. On other frames each layer
computes the keys of all tokens (cheap, a twelfth of a block), takes the tokens whose keys are
least like the reference's, and computes queries, values, attention and MLP for those alone: their
queries see all new keys, and values that are new where they were computed. The others take the
reference's attention and MLP outputs, added to their own new residual stream. The number of
tokens is fixed, so shapes are.

``rolling`` (ours, not the source's): tokens that were computed become reference at once, so that a
change is paid for once and not on every frame until the next reference.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .exportable import exportable
from .gaps import hold, zero_invalid
from .streaming import DType, Params
from .transformer import Attention, Block, rotate

Array = jax.Array
Rope = tuple[Array, Array] | None


@exportable
class References(NamedTuple):
    """What every layer remembers of the tokens; L layers, N tokens, D channels."""

    keys: Array  # [B, L, N, D] after rotation, of length 1: only compared with
    values: Array  # [B, L, N, D]
    attended: Array  # [B, L, N, D] the attention branch, as added to the residual stream
    hidden: Array  # [B, L, N, D] the MLP branch, likewise


@exportable
class RecomputeState(NamedTuple):
    refs: References
    phase: Array  # [B] int32, frames since the last full one, 0 .. period - 1; 0: the next is full


@dataclasses.dataclass(frozen=True)
class Recompute:
    """How much is computed when.

    Attributes:
      budget: part of the tokens that is computed on frames between two full ones.
      period: every how many frames all tokens are computed; 1 means always.
      rolling: computed tokens become reference at once.

    Raises:
      ValueError: budget outside (0, 1], or period below 1.
    """

    budget: float = 0.25
    period: int = 2
    rolling: bool = False

    def __post_init__(self):
        if not 0 < self.budget <= 1:
            raise ValueError(f"budget {self.budget}: a part of the tokens, above 0 and up to 1")
        if self.period < 1:
            raise ValueError(f"period {self.period}: all tokens come every 1, 2, ... frames")

    def count(self, tokens: int, always: int = 0) -> int:
        """Tokens computed of ``tokens``; ``always`` of them are not counted in the budget."""
        return min(tokens, always + max(1, round(self.budget * (tokens - always))))

    def init_carry(self, batch: int, depth: int, tokens: int, dim: int, dtype: DType):
        """Zeros; the first frame of a stream is a full one."""
        # four buffers, not one four times: a step may donate them
        zeros = (jnp.zeros((batch, depth, tokens, dim), dtype) for _ in range(4))
        return RecomputeState(References(*zeros), jnp.zeros((batch,), jnp.int32))

    def __call__(
        self,
        block: Block,
        params: Params,
        carry: RecomputeState,
        x: Array,
        valid: Array | None = None,
        rope: Rope = None,
        always: int = 0,
    ) -> tuple[RecomputeState, Array]:
        """All layers over the frames of a chunk, one after the other.

        Args:
          block: unbound, without a temporal mixer.
          params: its parameters stacked over depth, leaves [L, ...].
          carry: as :meth:`init_carry` makes it.
          x: [B, T, N, D] tokens before the first layer.
          valid: [B, T] bool or None; invalid frames leave the carry as it was and give zeros.
          rope: (cos, sin) of all tokens, or None.
          always: so many tokens at the front are computed on every frame (class, registers).

        Returns:
          (carry, tokens after the last layer [B, T, N, D]).
        """
        everything = self.period == 1 or self.count(x.shape[2], always) >= x.shape[2]
        x = zero_invalid(x, valid)

        def frame(state, piece):
            tokens, keep = piece
            if everything:
                refs, y = _full_pass(block, params, state.refs, tokens, rope)
            else:
                refs, y = self._mixed(block, params, state, tokens, keep, rope, always)
            new = RecomputeState(refs, (state.phase + 1) % self.period)
            return (new if keep is None else hold(new, state, keep)), y

        keeps = None if valid is None else valid.swapaxes(0, 1)
        carry, y = jax.lax.scan(frame, carry, (x.swapaxes(0, 1), keeps))
        return carry, zero_invalid(y.swapaxes(0, 1), valid)

    def _mixed(self, block, params, state, x, keep, rope, always):
        """One frame of streams of which some are due for a full pass: (references, tokens)."""
        due = state.phase == 0
        count = self.count(x.shape[1], always)

        def full(refs):
            return _full_pass(block, params, refs, x, rope)

        def part(refs):
            return _partial_pass(block, params, refs, x, rope, count, always, self.rolling)

        def both(refs):
            # Streams are out of step: pay for both, so that no stream depends on another.
            return hold(full(refs), part(refs), due)

        some, all_ = (due, due) if keep is None else (due & keep, due | ~keep)
        if len(due) == 1:  # one stream is never out of step with itself
            return jax.lax.cond(all_[0], full, part, state.refs)
        which = jnp.where(all_.all(), 0, jnp.where(some.any(), 1, 2))
        return jax.lax.switch(which, (full, both, part), state.refs)


def _full_pass(block: Block, params: Params, old: References, x: Array, rope: Rope):
    """All tokens through all layers: (new references, tokens). x [B, N, D]."""

    def layer(x, here):
        x, refs = block.apply({"params": here}, x, rope, method=full_block)
        return x, refs

    x, refs = jax.lax.scan(layer, x, params)
    refs = jax.tree.map(lambda new, was: new.swapaxes(0, 1).astype(was.dtype), refs, old)
    return refs, x


def _partial_pass(block, params, refs, x, rope, count, always, rolling):
    """The least similar ``count`` tokens of every layer: (references, tokens)."""

    def layer(x, piece):
        here, index = piece
        at = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, False), refs)
        return block.apply(
            {"params": here}, x, at, rope, count, always, rolling, method=partial_block
        )

    x, new = jax.lax.scan(layer, x, (params, jnp.arange(refs.keys.shape[1])))
    if not rolling:
        return refs, x
    # stacked anew: written in place, XLA would copy all layers' references for every layer
    return jax.tree.map(lambda a, was: a.swapaxes(0, 1).astype(was.dtype), new, refs), x


def full_block(block: Block, x: Array, rope: Rope = None) -> tuple[Array, References]:
    """A bound block over all tokens: x [B, N, D] -> (y, its references [B, N, D])."""
    q, k, v = block.attn.project(block.norm1(x), rope)
    attended = _scaled(block.scale1, block.attn.attend(q, k, v)[0])
    x = x + attended
    hidden = _scaled(block.scale2, block.mlp(block.norm2(x)))
    return x + hidden, References(unit(k.reshape(x.shape)), v.reshape(x.shape), attended, hidden)


def partial_block(
    block: Block,
    x: Array,
    refs: References,
    rope: Rope,
    count: int,
    always: int = 0,
    rolling: bool = False,
) -> tuple[Array, References | None]:
    """A bound block that computes ``count`` tokens: x [B, N, D], refs [B, N, D] -> (y, the new
    references, None unless ``rolling``)."""
    attn, tokens = block.attn, x.shape[1]
    normed = block.norm1(x)
    k = project_keys(attn, normed, rope)
    keys = unit(k.reshape(x.shape))
    like = row_sums(jax.lax.stop_gradient(keys) * refs.keys)
    if always:
        like = jnp.where(jnp.arange(tokens) < always, -2.0, like)
    index, place = least(like, count)
    turned = None if rope is None else (rope[0][index], rope[1][index])
    q, _, v = attn.project(take(normed, index), turned)
    values = put(v.reshape(*v.shape[:2], -1), refs.values, place)
    y, _ = attn.attend(q, k, values.reshape(k.shape))
    attended = put(_scaled(block.scale1, y), refs.attended, place)
    x = x + attended
    fresh = block.mlp(block.norm2(take(x, index)))
    hidden = put(_scaled(block.scale2, fresh), refs.hidden, place)
    if not rolling:
        return x + hidden, None
    keys = jnp.where(place[..., None] >= 0, keys, refs.keys.astype(keys.dtype))
    return x + hidden, References(keys, values, attended, hidden)


def _scaled(scale: Any, x: Array) -> Array:
    return x if scale is None else scale(x)


def project_keys(attn: Attention, x: Array, rope: Rope = None) -> Array:
    """The keys alone of ``attn.project``: x [B, N, D] -> [B, N, H, Dh]."""
    params, c = attn.qkv.variables["params"], attn.config
    start, width = c.heads * c.head, c.groups * c.head
    k = x.astype(c.dtype) @ params["kernel"][:, start : start + width].astype(c.dtype)
    if "k" in c.biased:
        start = start if "q" in c.biased else 0
        k = k + params["bias"][start : start + width].astype(k.dtype)
    k = k.reshape(*x.shape[:2], c.groups, -1)
    return k if rope is None else rotate(k, *rope)


def row_sums(x: Array) -> Array:
    """Sums over the last axis in fp32, as a product: on a CPU a plain sum is ten times slower."""
    ones = jnp.ones(x.shape[-1], jnp.float32)
    return jnp.matmul(x.astype(jnp.float32), ones, precision="highest")


def unit(x: Array) -> Array:
    """Vectors of length 1, without gradient: x [..., D]."""
    x = jax.lax.stop_gradient(x)
    length = jax.lax.rsqrt(jnp.maximum(row_sums(jnp.square(x.astype(jnp.float32))), 1e-20))
    return (x * length[..., None]).astype(x.dtype)


def least(score: Array, count: int) -> tuple[Array, Array]:
    """The ``count`` lowest of score [B, N], the earlier of equals.

    Returns:
      index [B, count] ascending; place [B, N]: where in ``index`` a token is, -1 if it is not.
    """
    index = jnp.sort(jnp.argsort(score, axis=1, stable=True)[:, :count], axis=1)
    chosen = (index[:, None, :] == jnp.arange(score.shape[1])[:, None]).any(axis=-1)
    place = jnp.where(chosen, jnp.cumsum(chosen, axis=1) - 1, -1)
    return index, place


def take(x: Array, index: Array) -> Array:
    """x [B, N, D], index [B, U] -> [B, U, D]."""
    return jnp.take_along_axis(x, index[..., None], axis=1)


def put(new: Array, old: Array, place: Array) -> Array:
    """old [B, N, D] with the tokens of new [B, U, D] where ``place`` [B, N] names one."""
    spread = jnp.take_along_axis(new, jnp.maximum(place, 0)[..., None], axis=1)
    return jnp.where(place[..., None] >= 0, spread, old.astype(new.dtype))
