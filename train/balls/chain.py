"""Teacher, causal start, self forcing: three stages, each started from the one before.

The teacher sees a clip as a whole (flow matching). The causal start sees clean blocks and learns
the next one (teacher forcing). Self forcing rolls the student out through the carry that it streams
with and moves what it made towards the teacher's clips (DMD), with a critic that follows it. Half
of the clips of all stages have a gap behind their first three frames, as the memory has it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...layers.diffusion import flow_loss, mix, shifted
from ...layers.rollout.masks import teacher_forcing
from ...layers.streaming import Array, Params
from ...zoo import registry
from ...zoo.files import load_file, save
from ...zoo.generate.balls.names import CONFIG
from ...zoo.generate.wan.model import Wan
from .clips import FRAMES, clips, frame_times, told

Log = Callable[[str], None]
Loss = Callable[[Params, Array], Array]
STEPS_PER_CALL = 100


@dataclasses.dataclass(frozen=True)
class ChainConfig:
    """Settings of the chain.

    Attributes:
      model: the name of the network.
      teacher_steps, causal_steps, rollout_steps: of the three stages.
      batch: clips of a step.
      teacher_rate, causal_rate, rollout_rate, critic_rate: learning rates.
      critic_steps: of the critic for each one of the student.
      fresh, going, entering: streams of a rollout's step that begin, that go on from earlier steps,
        and that each step takes over from the first to the second.
      regression: weight of teacher forcing beside DMD in the third stage, 0 for none.
      shift: of the noise levels.
    """

    model: str = "balls-tiny"
    teacher_steps: int = 8000
    causal_steps: int = 3000
    rollout_steps: int = 300
    batch: int = 64
    teacher_rate: float = 3e-3
    causal_rate: float = 2e-3
    rollout_rate: float = 3e-4
    critic_rate: float = 1e-3
    critic_steps: int = 4
    fresh: int = 16
    going: int = 48
    entering: int = 4
    regression: float = 0.0
    shift: float = 3.0


class Chain:
    """The stages of one seed, kept in files of a folder: a stage that is there is not run again."""

    def __init__(self, config: ChainConfig, seed: int, out: str | Path, log: Log = print):
        self.config, self.seed, self.out, self.log = config, seed, Path(out), log
        self.model = Wan(CONFIG)
        self.seconds: dict[str, float] = {}

    def run(self, until: str = "causal") -> Params:
        """The first two stages, up to ``teacher`` or ``causal``: its variables. The third is
        ``self_forcing.student``."""
        c = self.config
        key = jax.random.key(self.seed)
        begin = self._variables(jax.random.fold_in(key, 0))
        teacher = self.stage(
            "teacher",
            lambda: self.fit(begin, self.teacher_loss, c.teacher_steps, c.teacher_rate, key),
        )
        if until == "teacher":
            return teacher
        causal = self.stage(
            "causal",
            lambda: self.fit(
                teacher, self.causal_loss, c.causal_steps, c.causal_rate, jax.random.fold_in(key, 1)
            ),
        )
        return causal

    def stage(self, name: str, make: Callable[[], Params]) -> Params:
        """The variables of a stage: of its file, or made now."""
        path = self.out / f"{name}.safetensors"
        if path.is_file():
            return jax.tree.map(jnp.asarray, load_file(path)[0])
        began = time.process_time()
        made = jax.device_get(make())
        self.seconds[name] = time.process_time() - began
        self.log(f"{name}: {self.seconds[name]:.0f} CPU seconds, compiling included")
        told = {"model": self.config.model, "seed": self.seed, "cpu_seconds": self.seconds[name]}
        save(path, made, {**told, "chain": dataclasses.asdict(self.config)})
        return made

    def _variables(self, key: Array) -> Params:
        inputs = registry.find(self.config.model).inputs
        assert inputs is not None
        variables: Any = self.model.init(
            key, *inputs(self.model, registry.model_card("balls-tiny"))
        )
        return variables

    def drawn(self, key: Array, batch: int) -> tuple[Array, Array, Array, Array]:
        """(clean, noise, conditions, a key) of new clips."""
        one, two, three, four, rest = jax.random.split(key, 5)
        clean, classes = clips(one, frame_times(two, batch))
        noise = jax.random.normal(three, clean.shape, jnp.float32)
        return clean, noise, told(four, classes, CONFIG.text_dim), rest

    def sigmas(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Noise shares of training, uniform and shifted."""
        return shifted(jax.random.uniform(key, shape, jnp.float32), self.config.shift)

    def flow(self, variables: Params, noisy: Array, times: Array, condition: Array) -> Array:
        """What the network sees as a whole."""
        flow: Any = self.model.apply(variables, noisy, times, condition)
        return flow

    def teacher_loss(self, variables: Params, key: Array) -> Array:
        """Flow matching on whole clips."""
        clean, noise, condition, rest = self.drawn(key, self.config.batch)
        sigma = jnp.repeat(self.sigmas(rest, (clean.shape[0], 1)), FRAMES, axis=1)
        flow = self.flow(variables, mix(clean, noise, sigma), 1000 * sigma, condition)
        return flow_loss(flow, clean, noise)

    def causal_loss(self, variables: Params, key: Array, batch: int | None = None) -> Array:
        """Flow matching of each block behind the clean ones before it."""
        block = CONFIG.block
        clean, noise, condition, rest = self.drawn(key, batch or self.config.batch)
        sigma = self.sigmas(rest, (clean.shape[0], FRAMES // block))
        sigma = jnp.repeat(sigma, block, axis=1)
        flow: Any = self.model.apply(
            variables,
            jnp.concatenate([clean, mix(clean, noise, sigma)], axis=1),
            1000 * jnp.concatenate([jnp.zeros_like(sigma), sigma], axis=1),
            condition,
            places=jnp.tile(jnp.arange(FRAMES, dtype=jnp.int32), 2),
            mask=jnp.asarray(teacher_forcing(FRAMES, block)),
        )
        return flow_loss(flow[:, FRAMES:], clean, noise)

    def fit(self, variables: Params, loss: Loss, steps: int, rate: float, key: Array) -> Params:
        """Adam with a warm start and a cosine end: the running mean of the variables."""
        rates = optax.warmup_cosine_decay_schedule(0.0, rate, 100, max(steps, 101), 1e-6)
        optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates, b2=0.99))

        def one(state, key):
            variables, mean, moments, count = state
            value, slope = jax.value_and_grad(loss)(variables, key)
            change, moments = optimiser.update(slope, moments)
            variables = optax.apply_updates(variables, change)
            share = jnp.minimum(0.998, (1 + count) / (10 + count))
            mean = jax.tree.map(lambda m, v: share * m + (1 - share) * v, mean, variables)
            return (variables, mean, moments, count + 1), value

        some = jax.jit(lambda s, key: jax.lax.scan(one, s, jax.random.split(key, STEPS_PER_CALL)))
        state = (variables, variables, optimiser.init(variables), jnp.zeros((), jnp.float32))
        for i in range(-(-steps // STEPS_PER_CALL)):
            state, values = some(state, jax.random.fold_in(key, i))
            if i % 10 == 9:
                self.log(f"{(i + 1) * STEPS_PER_CALL} steps: loss {float(values.mean()):.4f}")
        return state[1]


def sampled(chain: Chain, variables: Params, count: int, steps: int, key: Array) -> np.ndarray:
    """Clips [B, 12, 32] of the teacher by Euler's method, told nothing."""
    ends = np.asarray(shifted(np.linspace(1, 0, steps + 1), chain.config.shift), np.float32)
    nothing = jnp.zeros((count, 1, CONFIG.text_dim), jnp.float32)

    def euler(x, ends):
        times = jnp.broadcast_to(1000 * ends[0], x.shape[:2])
        return x + (ends[1] - ends[0]) * chain.flow(variables, x, times, nothing), None

    noise = jax.random.normal(key, (count, FRAMES, *CONFIG.frame_shape), jnp.float32)
    x, _ = jax.jit(lambda x, e: jax.lax.scan(euler, x, e))(
        noise, jnp.stack([ends[:-1], ends[1:]], axis=1)
    )
    return np.asarray(x).reshape(count, FRAMES, -1)
