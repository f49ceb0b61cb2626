"""Equal blocks stacked and scanned over depth.

Compile time does not grow with depth, and XLA never copies slices of unrolled weights.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..kernels.dispatch import is_portable, repeated
from ..mixers import Mix
from ..stacked import Layer
from ..streaming import Carry
from .attention import Memories, Rope
from .block import Block, Taps
from .config import BlockConfig

Array = jax.Array


class _Period(nn.Module):
    """One period of the temporal pattern: the unit that is stacked and scanned over depth."""

    config: BlockConfig
    pattern: tuple[Mix, ...]
    feeds: tuple[str, ...]

    def setup(self):
        for i, mix in enumerate(self.pattern):
            feed = self.feeds[i % len(self.feeds)]
            setattr(self, f"layer{i}", Block(self.config, mix, feed))

    def __call__(self, states, x, index, valid, rope, taps, given, memories, added):
        """states: one carry per pattern entry with leaves [B, repeats, ...]; index: which one."""
        found = []
        updated = []
        for i, state in enumerate(states):
            layer = getattr(self, f"layer{i}")
            inside = () if self.pattern[i].kind == "none" else getattr(layer.mixer, "in_place", ())
            here, put = _layer(state, index, inside)
            if memories is not None:
                given = {**given, "memory": memories.layer(index * len(self.pattern) + i)}
            here, x, tap = layer(here, x, valid, rope, taps, **given)
            if added is not None:
                depth = index * len(self.pattern) + i
                own = jnp.take(added, jnp.minimum(depth, added.shape[0] - 1), axis=0)
                x = x + jnp.where(depth < added.shape[0], own, jnp.zeros((), own.dtype))
            updated.append(put(here))
            found.append(tap)
        stacked = jax.tree.map(lambda *taps: jnp.stack(taps), *found)
        return tuple(updated), x, stacked


def _layer(
    state: Carry, index: Array, in_place: tuple[str, ...]
) -> tuple[Carry, Callable[[Carry], Carry]]:
    """One layer's carry out of the stacked one, and the way back. The fields ``in_place`` go there
    as :class:`Layer`, all others by slices."""
    portable = is_portable()  # other runtimes know slices, and have no buffers to save
    inside = jax.tree.map(lambda _: False, state)
    if in_place and not portable:
        own = {name: jax.tree.map(lambda _: True, getattr(state, name)) for name in in_place}
        inside = inside._replace(**own)

    def view(a: Array, inside: bool) -> Array | Layer:
        if portable:
            return jax.lax.dynamic_index_in_dim(a, index, 1, keepdims=False)
        return Layer(a, index) if inside else Layer(a, index).read()

    def back(a: Array, new: Array | Layer) -> Array:
        return new.stack if isinstance(new, Layer) else Layer(a, index).write(new).stack

    def put(here: Carry) -> Carry:
        olds, tree = jax.tree.flatten(state)
        news = jax.tree.leaves(here, is_leaf=lambda a: isinstance(a, Layer))
        return jax.tree.unflatten(tree, map(back, olds, news))

    return jax.tree.map(view, state, inside), put


class BlockStack(nn.Module):
    """``depth`` blocks whose temporal mixers repeat a pattern; scanned over its repeats.

    The carry is a tuple over the pattern's entries, leaves [B, depth / len(pattern), ...]: batch
    first, so that one stream can be taken out of a batch. Parameters are stacked on axis 0.

    Attributes:
      config: of every block.
      depth: number of blocks.
      pattern: their temporal mixers.
      unroll: repeats per iteration of the scan; all of them for cost analysis.
      feeds: their feed-forward parts (``block.FEEDS``), repeated over the pattern.

    Raises:
      ValueError: if depth is not a multiple of the pattern's length, or that not of the feeds'.
    """

    config: BlockConfig
    depth: int
    pattern: tuple[Mix, ...] = (Mix("none"),)
    unroll: int = 1
    feeds: tuple[str, ...] = ("mlp",)

    @property
    def repeats(self) -> int:
        if not self.feeds or len(self.pattern) % len(self.feeds):
            raise ValueError(
                f"{len(self.feeds)} feed-forward parts do not repeat over a temporal pattern of "
                f"{len(self.pattern)}; write one for every block of it"
            )
        if not self.pattern or self.depth % len(self.pattern):
            raise ValueError(
                f"depth {self.depth} is not a multiple of the temporal pattern's length "
                f"{len(self.pattern)}; write the pattern out for every block"
            )
        return self.depth // len(self.pattern)

    def setup(self):
        _ = self.repeats  # fails early
        self.period = _Period(self.config, self.pattern, self.feeds)
        nn.share_scope(self, self.period)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int):
        """Zero carry for ``batch`` streams of ``tokens`` tokens per frame."""

        def per_layer(leaf):
            return jnp.repeat(leaf[:, None], self.repeats, axis=1)

        c = self.config
        return tuple(
            ()
            if mix.kind == "none"
            else jax.tree.map(
                per_layer, mix.build(c.dim, c.dtype, parent=None).init_carry(batch, tokens)
            )
            for mix in self.pattern
        )

    def __call__(
        self,
        carry: Carry,
        x: Array,
        valid: Array | None = None,
        rope: Rope | None = None,
        taps: Taps = (),
        memories: Memories | None = None,
        added: Array | None = None,
        **given: Array | None,
    ) -> tuple[Carry, Array, dict[str, Array]]:
        """All blocks.

        Args:
          carry: as :meth:`init_carry` makes it.
          x: [B, T, N, D].
          valid, rope, taps: as of :class:`Block`.
          memories: the ``memory`` of every block.
          added: [S, B, T, N, D], what is added to the tokens after each of the first S blocks.
          given: ``mask``, ``context`` and ``condition``, as of :class:`Block`; the same for all.

        Returns:
          (carry, y [B, T, N, D], taps stacked over depth [L, B, T, ...]).
        """

        def body(period, loop, index):
            states, x = loop
            with repeated(self.repeats):
                states, x, found = period(
                    states, x, index, valid, rope, taps, given, memories, added
                )
            return (states, x), found

        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.repeats,
            unroll=min(self.unroll, self.repeats),
        )
        (carry, x), found = scan(self.period, (carry, x), jnp.arange(self.repeats))
        # [repeats, pattern, ...] -> [depth, ...]
        return carry, x, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)
