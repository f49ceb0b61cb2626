"""What every tracker of this room does with a stream: checks, gaps and the loop over frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.gaps import zero_invalid
from ...layers.streaming import Carry
from ..checks import check_carry, check_frames, check_taps
from .stream import Prompts, Tracks, no_prompts

Array = jax.Array
Taps = tuple[str, ...]


class StreamTracker(nn.Module):
    """(carry, frames [B, T, H, W, 3], valid, prompts) -> (carry, :class:`Tracks`).

    A tracker gives ``init_carry(batch)`` and ``one_frame(carry, (frames [B, H, W, 3], valid [B],
    prompts [B, O, ...]), taps)``; ``config`` has ``image_size``, ``objects`` and ``points``.
    """

    config: Any

    task = "track"
    latency = 0
    cross_stream = False
    inputs = ("frames", "prompts")
    taps: ClassVar[Taps] = ()

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The state of ``batch`` streams before their first frame."""
        raise NotImplementedError

    def one_frame(
        self, carry: Carry, inputs: tuple[Array, Array, Prompts], taps: Taps = ()
    ) -> tuple[Carry, Tracks]:
        """The body: frames [B, H, W, 3], valid [B], prompts with leaves [B, O, ...]."""
        raise NotImplementedError

    @nn.nowrap
    def check_shape(self, frame_shape: tuple[int, int] | None) -> None:
        """Raises ValueError for a frame shape other than the config's ``image_size``."""
        if frame_shape is not None and tuple(frame_shape) != tuple(self.config.image_size):
            raise ValueError(
                f"frame_shape {tuple(frame_shape)}: this tracker takes"
                f" {tuple(self.config.image_size)}; resize the frames, or create_model(name,"
                " image_size=...)"
            )

    def __call__(
        self,
        carry: Carry,
        frames: Array,
        valid: Array | None = None,
        prompts: Prompts | None = None,
        taps: Taps = (),
    ) -> tuple[Carry, Tracks]:
        """Tracks.

        Args:
          carry: of :meth:`init_carry` or the last call.
          frames: [B, T, H, W, 3], normalised, at the config's size.
          valid: [B, T] bool; a frame that is not valid leaves no trace, nor do its prompts.
          prompts: of these frames; None for none.
          taps: names of intermediates, of ``self.taps``.

        Raises:
          ValueError: frames of another size, a carry or prompts that do not fit, unknown taps.
        """
        c = self.config
        check_frames(frames, 16, "a tracker")
        check_taps(taps, self.taps)
        batch, steps = frames.shape[:2]
        if frames.shape[2:4] != tuple(c.image_size):
            raise ValueError(
                f"frames of {frames.shape[2]}x{frames.shape[3]} to a tracker of"
                f" {c.image_size[0]}x{c.image_size[1]}: the frame size cannot change in a stream;"
                " resize the frames, or start a tracker with create_model(name, image_size=...)"
            )
        check_carry(carry, lambda: self.init_carry(batch))
        if self.is_initializing():
            prompts = no_prompts(batch, steps, c.objects, c.points, c.image_size)
            some = np.ones_like(prompts.labels)  # any that make all parameters
            prompts = replace(prompts, labels=some, pointed=~prompts.pointed)
        if prompts is None:
            none = no_prompts(1, steps, c.objects, c.points)
            # of any batch, also one that is not known yet (jax.export)
            quiet: Prompts = jax.tree.map(
                lambda a: jnp.broadcast_to(a, (batch, *a.shape[1:])), none
            )
            prompts = quiet
        self._check_prompts(prompts, batch, steps)
        frames, prompts = jax.tree.map(lambda a: zero_invalid(a, valid), (frames, prompts))
        valid = jnp.ones((batch, steps), bool) if valid is None else valid
        if self.is_initializing():
            one = jax.tree.map(lambda a: a[:, 0], (frames, valid, prompts))
            carry, out = self.one_frame(carry, one, taps)
            return carry, jax.tree.map(lambda a: a[:, None], out)
        bound = self.clone(parent=None)
        variables = jax.tree.map(jnp.asarray, {"params": self.variables["params"]})

        def body(carry, inputs):
            return bound.apply(variables, carry, inputs, taps, method="one_frame")

        inputs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (frames, valid, prompts))
        carry, out = jax.lax.scan(body, carry, inputs)
        return carry, jax.tree.map(lambda a: a.swapaxes(0, 1), out)

    def _check_prompts(self, prompts: Prompts, batch: int, steps: int) -> None:
        c = self.config
        size = c.image_size if prompts.masks is not None else None
        want = no_prompts(1, 1, c.objects, c.points, size)
        for name, got in vars(prompts).items():
            need = getattr(want, name)
            if got is not None and tuple(got.shape) != (batch, steps, *need.shape[2:]):
                raise ValueError(
                    f"prompts.{name} is {list(got.shape)} and should be"
                    f" {[batch, steps, *need.shape[2:]]}: batch, frames, objects {c.objects},"
                    f" points {c.points}, mask {c.image_size}; more objects or points need"
                    " create_model(name, objects=..., points=...)"
                )
