"""The third stage: the student's own rollouts, moved towards the teacher's clips."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ...layers.diffusion import flow_loss, mix, shifted
from ...layers.streaming import Array, Params
from ...zoo.generate.balls.names import CONFIG, stream
from ...zoo.generate.engine import Engine
from ..generate import Scores, SelfRollout, dmd_loss
from ..generate.dmd import DMD
from .chain import Chain
from .clips import FRAMES, told

STEPS_PER_CALL = 20
BLOCKS = FRAMES // CONFIG.block


class SelfForcing:
    """Self forcing with DMD over streams of all ages.

    A step rolls out ``fresh`` streams from nothing and lets ``going`` ones go on by nine frames.
    What is judged is a clip of twelve: a stream's first block, which its memory keeps, and the nine
    new frames. ``entering`` fresh streams then take the place of the oldest going ones.
    """

    def __init__(self, chain: Chain, teacher: Params):
        self.chain, self.config, self.teacher = chain, chain.config, teacher
        self.rollout = SelfRollout(Engine(chain.model, stream()))

    def judge(self, variables: Params, condition: Array):
        """A network's flow of whole clips under a condition."""
        return lambda noisy, times: self.chain.flow(variables, noisy, times, condition)

    def roll(self, variables: Params, going: dict[str, Any], key: Array):
        """(clips [B, 12, ...], their conditions, the streams afterwards)."""
        c = self.config
        one, two, three, four, five = jax.random.split(key, 5)
        classes = jax.random.randint(one, (c.fresh,), 0, 4, jnp.int32)
        condition = told(two, classes, CONFIG.text_dim)
        state = self.rollout.engine.init_state(jnp.zeros((c.fresh, 2), jnp.uint32))
        first = self.rollout.plan(three, 1, c.fresh)
        state, head = self.rollout.roll(variables, state, condition, first)
        both = lambda a, b: jnp.concatenate([a, b], axis=0)
        state = jax.tree.map(both, state, going["state"])
        condition, head = both(condition, going["condition"]), both(head, going["head"])
        rest = self.rollout.plan(four, BLOCKS - 1, c.fresh + c.going)
        rest = rest._replace(exits=jnp.repeat(first.exits, BLOCKS - 1))
        state, made = self.rollout.roll(variables, state, condition, rest)
        after = {"state": state, "condition": condition, "head": head}
        clip = jnp.concatenate([head, made], axis=1)
        return clip, condition, jax.lax.stop_gradient(after), first.exits[0], five

    def student_loss(self, variables: Params, critic: Params, going: dict[str, Any], key: Array):
        """DMD of a rollout, and teacher forcing beside it."""
        c = self.config
        clip, condition, after, exit_pass, key = self.roll(variables, going, key)
        one, two, three = jax.random.split(key, 3)
        # the times at which both judge, away from the ends
        sigma = jax.random.uniform(one, (clip.shape[0], 1), jnp.float32, 0.02, 0.98)
        sigma = shifted(sigma, c.shift)
        times = 1000 * jnp.repeat(sigma, FRAMES, axis=1)
        scores = Scores(self.judge(self.teacher, condition), self.judge(critic, condition))
        noise = jax.random.normal(two, clip.shape, jnp.float32)
        loss, figures = dmd_loss(clip, noise, times, scores, DMD(guidance=0, shift=c.shift))
        total = loss
        if c.regression:
            total += c.regression * self.chain.causal_loss(variables, three, 3 * c.batch // 4)
        clip = jax.lax.stop_gradient(clip)
        return total, (clip, condition, after, exit_pass, {"dmd": loss, **figures})

    def critic_loss(self, critic: Params, clip: Array, condition: Array, key: Array) -> Array:
        """The critic learns the flow of what the student makes."""
        one, two = jax.random.split(key)
        sigma = jnp.repeat(self.chain.sigmas(one, (clip.shape[0], 1)), FRAMES, axis=1)
        noise = jax.random.normal(two, clip.shape, jnp.float32)
        noisy = mix(clip, noise, sigma)
        return flow_loss(self.judge(critic, condition)(noisy, 1000 * sigma), clip, noise)

    def next_going(self, old: dict[str, Any], after: dict[str, Any], exit_pass: Array, step: Array):
        """The streams that the next step goes on with. A step whose frames came out of the first
        passes left blurred frames in the memory: it is not gone on from."""
        c = self.config
        late = exit_pass >= 2
        kept = jax.tree.map(lambda new, a: jnp.where(late, new[c.fresh :], a), after, old)
        at = (step % (c.going // c.entering)) * c.entering
        put = lambda a, new: jax.lax.dynamic_update_slice_in_dim(a, new[: c.entering], at, 0)
        changed = jax.tree.map(put, kept, after)
        return jax.tree.map(lambda new, a: jnp.where(exit_pass >= 1, new, a), changed, kept)

    def begun(self, variables: Params, key: Array) -> dict[str, Any]:
        """The first streams that go on: one clip each of the causal start."""
        c = self.config
        one, two, three = jax.random.split(key, 3)
        classes = jax.random.randint(one, (c.going,), 0, 4, jnp.int32)
        condition = told(two, classes, CONFIG.text_dim)
        state = self.rollout.engine.init_state(jnp.zeros((c.going, 2), jnp.uint32))
        plan = self.rollout.plan(three, BLOCKS, c.going, last_exit=True)
        state, made = self.rollout.roll(variables, state, condition, plan)
        return {"state": state, "condition": condition, "head": made[:, : CONFIG.block]}

    def fit(self, variables: Params, key: Array) -> Params:
        """The stage: a running mean of the student's variables."""
        c = self.config
        rates = optax.cosine_decay_schedule(c.rollout_rate, c.rollout_steps)
        clip = optax.clip_by_global_norm(1.0)
        student = optax.chain(clip, optax.adam(rates, b1=0.0, b2=0.99))
        critic = optax.chain(clip, optax.adam(c.critic_rate, b1=0.5, b2=0.99))

        def one(s, key):
            first, second = jax.random.split(key)
            grad = jax.value_and_grad(self.student_loss, has_aux=True)
            (_, aux), slope = grad(s["student"], s["critic"], s["going"], first)
            frames, condition, after, exit_pass, figures = aux
            change, moments = student.update(slope, s["moments"])
            new = optax.apply_updates(s["student"], change)

            def follow(state, key):
                params, moments = state
                loss, slope = jax.value_and_grad(self.critic_loss)(params, frames, condition, key)
                change, moments = critic.update(slope, moments)
                return (optax.apply_updates(params, change), moments), loss

            judge = (s["critic"], s["critic_moments"])
            judge, losses = jax.lax.scan(follow, judge, jax.random.split(second, c.critic_steps))
            mean = jax.tree.map(lambda m, v: 0.98 * m + 0.02 * v, s["mean"], new)
            going = self.next_going(s["going"], after, exit_pass, s["step"])
            state = dict(student=new, mean=mean, moments=moments, critic=judge[0],
                         critic_moments=judge[1], going=going, step=s["step"] + 1)  # fmt: skip
            return state, {**figures, "critic": losses.mean()}

        some = jax.jit(lambda s, key: jax.lax.scan(one, s, jax.random.split(key, STEPS_PER_CALL)))
        going = jax.jit(self.begun)(variables, jax.random.fold_in(key, 0))
        state: Any = dict(student=variables, mean=variables, moments=student.init(variables),
                     critic=self.teacher, critic_moments=critic.init(self.teacher), going=going,
                     step=jnp.zeros((), jnp.int32))  # fmt: skip
        began = time.process_time()
        for i in range(-(-c.rollout_steps // STEPS_PER_CALL)):
            state, figures = some(state, jax.random.fold_in(key, i + 1))
            if i % 5 == 4:
                told = ", ".join(f"{name} {float(a.mean()):.4f}" for name, a in figures.items())
                spent = time.process_time() - began
                self.chain.log(f"{(i + 1) * STEPS_PER_CALL} steps: {told} ({spent:.0f} s)")
        return state["mean"]


def student(chain: Chain) -> Params:
    """All three stages: the student's variables."""
    teacher, causal = chain.run("teacher"), chain.run("causal")
    key = jax.random.fold_in(jax.random.key(chain.seed), 2)
    return chain.stage("student", lambda: SelfForcing(chain, teacher).fit(causal, key))
