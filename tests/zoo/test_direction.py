"""A task that one frame cannot answer: which way does the dot move?"""

import jax
import jax.numpy as jnp
import pytest

from streamzoo.layers.mixers import mix
from streamzoo.zoo.action import CausalViT, StudentConfig

optax = pytest.importorskip("optax")


def dots(key, batch):
    """Two frames [B, 2, 16, 48, 3]: a dot comes to the middle from the left (1) or right (0)."""
    way = jax.random.randint(key, (batch,), 0, 2)
    places = jnp.stack([2 - 2 * way, jnp.ones_like(way)], axis=1)
    on = jnp.repeat(jax.nn.one_hot(places, 3), 16, axis=2)[:, :, None, :, None]
    return jnp.broadcast_to(on, (batch, 2, 16, 48, 3)), way


def accuracy_after_training(temporal, steps=60):
    config = StudentConfig(
        image_size=(16, 48), dim=32, depth=2, heads_per_block=2, temporal=(temporal,),
        heads=("frame",), num_classes=2,
    )  # fmt: skip
    model = CausalViT(config)
    frames, _ = dots(jax.random.key(0), 2)
    params = jax.jit(model.init)(jax.random.key(1), model.init_carry(2), frames)
    optimiser = optax.adam(3e-3)

    def answer(params, frames):
        return model.apply(params, model.init_carry(frames.shape[0]), frames)[1].logits[:, -1]

    def loss(params, key):
        frames, way = dots(key, 32)
        logits = answer(params, frames)
        return optax.softmax_cross_entropy_with_integer_labels(logits, way).mean()

    @jax.jit
    def train(params):
        def step(state, key):
            params, inner = state
            updates, inner = optimiser.update(jax.grad(loss)(params, key), inner, params)
            return (optax.apply_updates(params, updates), inner), None

        keys = jax.random.split(jax.random.key(2), steps)
        return jax.lax.scan(step, (params, optimiser.init(params)), keys)[0][0]

    frames, way = dots(jax.random.key(3), 256)
    return float((answer(train(params), frames).argmax(-1) == way).mean())


@pytest.mark.slow
def test_direction_needs_memory():
    assert accuracy_after_training(mix("shift", fraction=0)) < 0.6
    assert accuracy_after_training(mix("shift", fraction=1 / 4)) > 0.95
