"""The jitted step of a live stream: one compile per shape, ahead of time on request."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from ..layers.streaming import AnyArray, Carry, Params
from ..zoo.preprocess import preprocess
from ..zoo.registry import Card, as_task
from ..zoo.resolve import home
from .precision import check, in_precision

Array = jax.Array


def enable_compile_cache(folder: str | Path | None = None) -> Path:
    """Keeps compiled steps on disk, so that the next start does not compile again.

    Default: the folder that JAX has already (``$JAX_COMPILATION_CACHE_DIR``), then nothing is
    changed; else ``$STREAMZOO_HOME/xla`` (``~/.cache/streamzoo/xla``). Returns the folder.
    """
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if folder is None and chosen:
        return Path(chosen)
    folder = Path(folder).expanduser() if folder else home() / "xla"
    folder.mkdir(parents=True, exist_ok=True)
    compilation_cache.reset_cache()  # else JAX goes on with the folder that it first used
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


class Step:
    """model and params as one call: (carry, uint8 frames) -> (carry, output).

    The carry that goes in is donated: its buffers become the new carry's, nothing is copied, and
    the old object must not be used again (:meth:`peek` leaves it alone). Compiled programs are
    kept per shape of the arguments; ``compiles`` counts them, and they took
    ``compile_seconds``. Threads may share a step. A pickle
    holds the model, its parameters and its card, and compiles again where it is opened.

    Args:
      runtime: "jax", or on a CPU "onnxruntime" or "openvino": the same step converted on its first
        use, with carries that any of them can go on from.
      precision: "fp32", "bf16" (jax, openvino) or "int8" (onnxruntime, openvino: weights of matrix
        products); None for the model's own. All but fp32 change the answers.

    Raises:
      RuntimeRefused: a runtime or precision that cannot be had here or for this model, and what
        would do.
    """

    def __init__(
        self,
        model: Any,
        params: Params,
        card: Card,
        *,
        runtime: str = "jax",
        precision: str | None = None,
    ):
        self.runtime, self.precision = runtime, check(runtime, precision)
        self._asked = precision
        if runtime == "jax":
            model = in_precision(model, card, self.precision)
        self.model, self.params = model, params
        self.card = as_task(card, model)
        self.compiles, self.compile_seconds = 0, 0.0
        self._programs: dict[Any, Any] = {}
        self._compiling = threading.Lock()

        def run(params, carry, frames, valid, extras):
            return model.apply(params, carry, preprocess(frames, card), valid, **extras)

        self._commit = jax.jit(run, donate_argnums=1)
        self._peek = jax.jit(run)

    def __reduce__(self):
        make = functools.partial(Step, runtime=self.runtime, precision=self._asked)
        return make, (self.model, jax.device_get(self.params), self.card)

    def __deepcopy__(self, memo: dict) -> Step:
        return self  # nothing in it changes from call to call

    def init_carry(self, batch: int = 1, frame_shape: tuple[int, int] | None = None):
        """Carry of ``batch`` fresh streams; frame_shape (h, w), default the card's size."""
        make = lambda: self.model.init_carry(batch, frame_shape or self.card.input_size)
        return jax.jit(make)()

    def compile(
        self,
        batch: int = 1,
        steps: int = 1,
        frame_shape: tuple[int, int] | None = None,
        **extras: Any,
    ) -> Any:
        """Compiles the step for uint8 frames [batch, steps, h, w, 3] ahead of the first frame;
        ``extras``: what goes to the model besides, or arrays of its shapes."""
        height, width = frame_shape or self.card.input_size
        carry = jax.eval_shape(lambda: self.model.init_carry(batch, (height, width)))
        frames = jax.ShapeDtypeStruct((batch, steps, height, width, 3), jnp.uint8)
        return self._program(self._commit, carry, frames, None, extras)

    def warm(
        self, carry: Carry, frames: AnyArray, valid: AnyArray | None = None, **extras: Any
    ) -> None:
        """Compiles the call with these arguments, or others of their shapes; runs nothing."""
        self._program(self._commit, carry, frames, valid, extras)

    def _program(self, jitted, carry, frames, valid, extras):
        args = (carry, frames, valid, extras)
        shapes = tuple((a.shape, a.dtype) for a in jax.tree.leaves(args))
        donates = jitted is self._commit and self.runtime == "jax"
        key = donates, jax.tree.structure(args), shapes
        if key not in self._programs:
            with self._compiling:
                if key not in self._programs:
                    began = time.monotonic()
                    self._programs[key] = self._compiled(jitted, args)
                    self.compile_seconds += time.monotonic() - began
                    self.compiles += 1
        return self._programs[key]

    def _compiled(self, jitted: Any, args: tuple) -> Any:
        if self.runtime == "jax":
            return jitted.lower(self.params, *args).compile()
        from .export.foreign import build  # wants onnx, an extra

        return build(self.runtime, self.precision, self.model, self.params, self.card, args)

    def __call__(
        self, carry: Carry, frames: AnyArray, valid: AnyArray | None = None, **extras: Any
    ):
        """frames uint8 [B, T, h, w, 3], valid bool [B, T] or None -> (new carry, output).

        ``extras`` go to the model (``boxes``, ``box_valid``). The carry is donated.
        """
        program = self._program(self._commit, carry, frames, valid, extras)
        return program(self.params, carry, frames, valid, extras)

    def peek(self, carry: Carry, frames: AnyArray, valid: AnyArray | None = None, **extras: Any):
        """The output for frames without advancing the stream; the carry stays usable."""
        program = self._program(self._peek, carry, frames, valid, extras)
        return program(self.params, carry, frames, valid, extras)[1]


def rollout(
    model: Any,
    params: Params,
    frames: AnyArray,
    *,
    carry: Carry = None,
    valid: AnyArray | None = None,
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
        lambda a: a[:, : whole * chunk].reshape(batch, whole, chunk, *a.shape[2:]).swapaxes(0, 1),
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
