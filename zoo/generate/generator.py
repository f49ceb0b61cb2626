"""Endless video from a network, a rollout and a condition: three lines.

generator = Generator.create("wan-tiny", rollout="longlive")
state = generator.start(batch=1)
state, made = generator.step(state, condition)      # one block of latent frames
state = generator.switch(state, other_condition)    # a new prompt, between two blocks
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ...layers.rollout import Rollout, rollout
from ...layers.streaming import AnyArray, Array, Params
from ..resolve import load
from ..weights import init_params
from . import blocks, levels, window
from .engine import Denoiser, Engine
from .state import GeneratorState, Made

STEPS = {"block": blocks.step, "window": window.step, "levels": levels.step}


class Generator:
    """A network that makes video, block by block, in memory of constant size.

    Every method takes a state and gives the next one; nothing else is kept, so a state can be
    saved, cut out of a batch and resumed. Calls compile once per shape.

    Args:
      module: a network that reads frames of a memory (``zoo.generate.Wan``).
      variables: its parameters.
      rollout: how video is made: a value of ``layers.rollout`` or the name of one.
      donate: the state that a step is given is changed in place, and cannot be used again: no copy
        of the memory per block.
      mesh: devices over which a pipeline of levels runs, by its axis ``level``; None: one.

    Raises:
      ValueError: a mesh for a rollout of another order, or levels that it does not divide.
    """

    def __init__(
        self,
        module: Denoiser,
        variables: Params,
        rollout_: Rollout | str = "longlive",
        *,
        donate: bool = False,
        mesh: Mesh | None = None,
    ):
        value = rollout(rollout_) if isinstance(rollout_, str) else rollout_
        self.engine, self.variables = Engine(module, value), variables
        one: Callable[..., Any] = STEPS[value.order]
        if mesh is not None:
            if value.order != "levels":
                raise ValueError(f"a mesh of levels, and a rollout in the order {value.order!r}")
            levels.sharded(self.engine, mesh)  # fails early
            mesh = Mesh(mesh.devices, mesh.axis_names)
            one = levels.step_over(mesh)
        self.mesh = mesh
        own = functools.partial(one, self.engine)
        self._step = jax.jit(own, donate_argnums=(1,) if donate else ())
        self._switch = jax.jit(self.engine.switch)
        self._extend = jax.jit(functools.partial(blocks.extend, self.engine))
        self._warm = jax.jit(functools.partial(levels.warm, self.engine))
        self._refer = jax.jit(self.engine.refer, static_argnames="at")

    @classmethod
    def create(
        cls, name: str, *, rollout: Rollout | str = "longlive", seed: int = 0, **overrides: Any
    ) -> Generator:
        """A registered network with random weights. Raises as ``create_model``."""
        module: Any
        module, variables = init_params(name, seed=seed, **overrides)
        return cls(module, variables, rollout)

    @classmethod
    def load(cls, source: str, *, rollout: Rollout | str = "longlive", **overrides: Any):
        """A network with its weights: a name, a file or an address. Raises as ``load``."""
        module: Any
        module, variables = load(source, **overrides)
        return cls(module, variables, rollout)

    @property
    def rollout(self) -> Rollout:
        """How video is made."""
        return self.engine.rollout

    @property
    def latency(self) -> int:
        """Steps from the start of a stream that finish no block."""
        return self.rollout.latency

    def start(self, batch: int = 1, *, seed: int = 0) -> GeneratorState:
        """Streams that made nothing yet. A stream's noise depends on ``seed`` and its row."""
        rows = jnp.arange(batch, dtype=jnp.uint32)
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(rows)
        state = self.engine.init_state(jax.random.key_data(keys))
        return state if self.mesh is None else levels.placed(state, self.mesh)

    def step(
        self,
        state: GeneratorState,
        condition: AnyArray,
        *,
        draws: AnyArray | None = None,
        source: AnyArray | None = None,
        active: AnyArray | None = None,
        **more: Any,
    ) -> tuple[GeneratorState, Made]:
        """One block more.

        Args:
          state: of :meth:`start` or the step before.
          condition: [B, K, D], such as the tokens of a text.
          draws: the noise of the step's passes, [B, P, F, h, w, C]; None: of the streams' keys.
          source: [B, F, h, w, C], latents of another video that are made anew; needs a rollout
            whose first level is below 1000 to leave anything of them.
          active: [B] bool, streams that take part; the others stay as they are.
          more: of the rollout's own order: ``control`` [B, F, h, w, D] of blocks, for a network
            that has channels of one (``layers.diffusion.track_channels``); ``fresh`` [B] bool of a
            window (False: no new block is begun, which drains it); ``first_time`` [B] of levels
            (StreamDiffusionV2's motion).

        Returns:
          (state, what was made). Frames that are not ``valid`` are not finished.

        Raises:
          ValueError: a condition or a source of another shape.
        """
        batch = state.steps.shape[0]
        condition = self._condition(condition, batch)
        wants = (batch, self.rollout.block, *self.engine.shapes.frame_shape)
        if source is not None and tuple(source.shape) != wants:
            raise ValueError(f"a source {list(source.shape)}; this generator takes {list(wants)}")
        return self._step(
            self.variables, state, condition, draws=draws, source=source, active=active, **more
        )

    def switch(
        self, state: GeneratorState, condition: AnyArray, *, which: AnyArray | None = None
    ) -> GeneratorState:
        """A new prompt: the memory is kept, made anew or flushed, as the rollout says.

        Args:
          state: between two blocks.
          condition: [B, K, D], the new prompt of every stream that gets one.
          which: [B] bool, the streams that get one; None: all. The others stay bit for bit.
        """
        batch = state.steps.shape[0]
        which = np.ones(batch, bool) if which is None else which
        return self._switch(self.variables, state, self._condition(condition, batch), which)

    def cut(self, state: GeneratorState, which: AnyArray | None = None) -> GeneratorState:
        """The next block begins a new scene, where the rollout's positions know scenes."""
        both = jnp.ones_like(state.cut) if which is None else jnp.asarray(which, bool)
        return dataclasses.replace(state, cut=state.cut | both)

    def extend(
        self, state: GeneratorState, latents: AnyArray, condition: AnyArray
    ) -> GeneratorState:
        """Takes a block of finished frames [B, F, h, w, C] into the stream, as if it had made them:
        a video to go on from."""
        return self._extend(self.variables, state, latents, condition)

    def warm(
        self, state: GeneratorState, condition: AnyArray, *, draws: AnyArray
    ) -> tuple[GeneratorState, Array]:
        """The first frames of a pipeline of levels, all of them through all levels at once, so that
        every level begins with a memory of them (StreamDiffusionV2).

        Args:
          draws: [B, P, F, h, w, C], noise of the passes; F frames are made.

        Returns:
          (state, frames [B, F, h, w, C]).
        """
        return self._warm(self.variables, state, self._condition(condition, len(draws)), draws)

    def refer(
        self, state: GeneratorState, latents: AnyArray, condition: AnyArray, *, at: int = 30
    ) -> GeneratorState:
        """Shows the streams frames that are no part of their video (``Engine.refer``)."""
        return self._refer(self.variables, state, latents, condition, at=at)

    def _condition(self, condition: AnyArray, batch: int) -> Array:
        given = jnp.asarray(condition)
        if given.ndim != 3 or given.shape[0] != batch:
            raise ValueError(f"a condition {list(given.shape)} of {batch} streams: [B, K, D]")
        return given
