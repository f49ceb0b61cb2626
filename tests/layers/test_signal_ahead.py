"""Blocks that look ahead by recomputing, and the running norm: the law, and what is seen."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import LAWS
from streamzoo.layers.contract_time import check_year
from streamzoo.layers.signal.ahead import Ahead, Placed
from streamzoo.layers.signal.running import RunningNorm
from streamzoo.layers.signal.ticks import subject, verify_signal
from streamzoo.layers.transformer import BlockConfig
from streamzoo.zoo.speech.moonshine.model import angles

CONFIG = BlockConfig(8, 2, biased="", out_bias=False, mlp_ratio=2.0)
TURNS = functools.partial(angles, head=4, turned=4, theta=100.0)


class Stack(nn.Module):
    """Two blocks in hops, which own their parameters."""

    hop: int
    ahead: int
    past: int

    def setup(self):
        self.blocks = [Placed(CONFIG) for _ in range(2)]
        self.stack = Ahead(tuple(self.blocks), TURNS, self.hop, self.ahead, self.past)

    @nn.nowrap
    def of(self):
        blocks = (Placed(CONFIG, parent=None),) * 2
        return Ahead(blocks, TURNS, self.hop, self.ahead, self.past, parent=None)

    latency = property(lambda self: self.of().latency)
    emitted = nn.nowrap(lambda self, count: self.of().emitted(count))
    init_carry = nn.nowrap(lambda self, batch: self.of().init_carry(batch))

    def __call__(self, carry, x, valid=None):
        return self.stack(carry, x, valid)

    def flush(self, carry):
        return self.stack.flush(carry)

    def clip(self, x, count):
        return self.stack.clip(x, count)


def noise(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 8))


def made(*shape):
    model = Stack(*shape)
    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), noise(0, 1, 3))
    return model, jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 1, 5), (3, 0, 4), (1, 2, 3)])
def test_the_law(shape):
    verify_signal(*made(*shape), noise)


@pytest.mark.slow
def test_the_law_of_the_running_norm():
    """All but that of years: a mean is another one when it is of more frames."""
    net = subject(RunningNorm(), {}, noise, atol=1e-4)
    for law in LAWS:
        if law is not check_year:
            law(net)


def test_a_frame_sees_its_hop_what_is_ahead_and_the_past_and_no_more():
    hop, ahead, past, frames = 3, 2, 4, 15
    model, variables = made(hop, ahead, past)
    x, count = noise(1, 1, frames), jnp.array([frames])
    clip = jax.jit(lambda x: model.apply(variables, x, count, method="clip"))
    base = np.asarray(clip(x))
    seen = np.zeros((frames, frames), bool)
    for other in range(frames):
        moved = np.asarray(clip(x.at[0, other].set(noise(9, 1, 1)[0, 0])))
        seen[:, other] = np.abs(moved - base)[0].max(axis=-1) > 1e-5
    start = np.arange(frames) // hop * hop
    latest = start + hop - 1 + ahead
    at = np.arange(frames)[None]
    assert not seen[at > latest[:, None]].any()  # however deep, nobody sees further
    assert seen[(at >= start[:, None] - past) & (at <= latest[:, None])].all()
    # through two blocks the past reaches twice as far, by hops, and no further
    assert not seen[at < start[:, None] - 2 * past - hop].any()


def test_a_stream_goes_on_for_ever_as_it_began():
    """Places are counted from a hop, so the same sound has the same features at any time."""
    model, variables = made(2, 2, 6)
    period = noise(2, 1, 8)
    _, out = jax.jit(model.apply)(variables, model.init_carry(1), jnp.tile(period, (1, 40, 1)))
    x = np.asarray(out.x[0])[np.asarray(out.valid[0])]
    np.testing.assert_allclose(x[304:312], x[32:40], atol=2e-5)
    assert np.abs(x[1:9] - x[:8]).max() > 0.1
