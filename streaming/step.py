"""The jitted step of a live stream: one compile per shape, ahead of time on request."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..zoo.preprocess import preprocess
from ..zoo.registry import Card

Array = jax.Array


def enable_compile_cache(folder: str | Path | None = None) -> Path:
    """Keeps compiled steps on disk, so that the next start does not compile again.

    Default: ``$STREAMZOO_HOME/xla`` (``~/.cache/streamzoo/xla``). Returns the folder.
    """
    home = os.environ.get("STREAMZOO_HOME") or Path.home() / ".cache" / "streamzoo"
    folder = Path(folder or Path(home) / "xla")
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


class Step:
    """model and params as one call: (carry, uint8 frames) -> (carry, output).

    The carry that goes in is donated: its buffers become the new carry's, nothing is copied, and
    the old object must not be used again (:meth:`peek` leaves it alone). Compiled programs are
    kept per shape of the arguments; ``compiles`` counts them.
    """

    def __init__(self, model: Any, params: Any, card: Card):
        self.model, self.params, self.card = model, params, card
        self.compiles = 0
        self._programs: dict[Any, Any] = {}

        def run(params, carry, frames, valid, extras):
            return model.apply(params, carry, preprocess(frames, card), valid, **extras)

        self._commit = jax.jit(run, donate_argnums=1)
        self._peek = jax.jit(run)

    def init_carry(self, batch: int = 1, frame_shape: tuple[int, int] | None = None):
        """Carry of ``batch`` fresh streams; frame_shape (h, w), default the card's size."""
        make = lambda: self.model.init_carry(batch, frame_shape or self.card.input_size)  # noqa: E731
        return jax.jit(make)()

    def compile(
        self, batch: int = 1, steps: int = 1, frame_shape: tuple[int, int] | None = None
    ) -> Any:
        """Compiles the step for uint8 frames [batch, steps, h, w, 3] ahead of the first frame."""
        height, width = frame_shape or self.card.input_size
        carry = jax.eval_shape(lambda: self.model.init_carry(batch, (height, width)))
        frames = jax.ShapeDtypeStruct((batch, steps, height, width, 3), jnp.uint8)
        return self._program(self._commit, carry, frames, None, {})

    def warm(self, carry: Any, frames: Any, valid: Any = None, **extras: Any) -> None:
        """Compiles the call with these arguments, or others of their shapes; runs nothing."""
        self._program(self._commit, carry, frames, valid, extras)

    def _program(self, jitted, carry, frames, valid, extras):
        args = (carry, frames, valid, extras)
        shapes = tuple((a.shape, a.dtype) for a in jax.tree.leaves(args))
        key = jitted is self._commit, jax.tree.structure(args), shapes
        if key not in self._programs:
            self._programs[key] = jitted.lower(self.params, *args).compile()
            self.compiles += 1
        return self._programs[key]

    def __call__(self, carry: Any, frames: Any, valid: Any = None, **extras: Any):
        """frames uint8 [B, T, h, w, 3], valid bool [B, T] or None -> (new carry, output).

        ``extras`` go to the model (``boxes``, ``box_valid``). The carry is donated.
        """
        program = self._program(self._commit, carry, frames, valid, extras)
        return program(self.params, carry, frames, valid, extras)

    def peek(self, carry: Any, frames: Any, valid: Any = None, **extras: Any):
        """The output for frames without advancing the stream; the carry stays usable."""
        program = self._program(self._peek, carry, frames, valid, extras)
        return program(self.params, carry, frames, valid, extras)[1]


def rollout(
    model: Any,
    params: Any,
    frames: Array,
    *,
    carry: Any = None,
    valid: Array | None = None,
    chunk: int = 1,
    **extras: Array,
) -> tuple[Any, Any]:
    """Runs a long recording through the carry by ``lax.scan``, ``chunk`` frames at a time.

    Memory does not grow with the recording except for the outputs themselves. Pure: call it
    under ``jit``, ``grad`` or ``vmap``.

    Args:
      frames: [B, T, H, W, 3] normalised floats.
      carry: where the streams stand; None starts new ones.
      valid: [B, T] bool, or None.
      chunk: frames per iteration; more are faster while memory lasts. A rest runs by itself.
      **extras: per-frame arguments of the model, [B, T, ...].

    Returns:
      (carry, output with leaves [B, T, ...]).
    """
    batch, steps = frames.shape[:2]
    if carry is None:
        carry = model.init_carry(batch, frames.shape[2:4])
    inputs = {"frames": frames, "valid": valid, **extras}

    def run(carry, part):
        part = dict(part)
        return model.apply(params, carry, part.pop("frames"), part.pop("valid"), **part)

    whole = steps // chunk
    pieces = jax.tree.map(
        lambda a: a[:, : whole * chunk]
        .reshape(batch, whole, chunk, *a.shape[2:])
        .swapaxes(0, 1),
        inputs,
    )
    outs = []
    if whole:
        carry, out = jax.lax.scan(run, carry, pieces)
        outs.append(
            jax.tree.map(
                lambda a: a.swapaxes(0, 1).reshape(batch, whole * chunk, *a.shape[3:]), out
            )
        )
    if steps > whole * chunk:
        carry, out = run(carry, jax.tree.map(lambda a: a[:, whole * chunk :], inputs))
        outs.append(out)
    return carry, jax.tree.map(lambda *a: jnp.concatenate(a, axis=1), *outs)
