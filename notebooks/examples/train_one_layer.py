"""A frozen encoder, one temporal layer and a head in a training loop of your own.

The task cannot be told from one frame: a square moves left, or right. The loop is plain JAX; any
optimiser fits. What was trained on clips then runs as a stream, with the same numbers.
"""

import argparse
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import streamzoo
from streamzoo.layers.gated_delta import GatedDelta

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=40)
args = parser.parse_args()
FRAMES, SIZE, DIM = 6, 28, 32

# Untrained and tiny, so that it needs no download; "hf:facebook/dinov2-small" has learned already.
encoder, frozen = streamzoo.init_params(
    "dinov2-s14", image_size=(SIZE, SIZE), dim=DIM, heads=2, depth=1
)


class Head(nn.Module):
    memory: GatedDelta = GatedDelta(DIM)

    @nn.compact
    def __call__(self, carry, x):  # x [B, T, N, D] -> logits [B, T, 2]
        carry, y = self.memory(carry, x)
        return carry, nn.Dense(2)((x + y).reshape(*x.shape[:2], -1))


@jax.jit
def tokens(frames):
    """frames [B, T, H, W, 3] -> [B, T, N, D]; the encoder reads single pictures."""
    out: Any = encoder.apply(frozen, frames.reshape(-1, *frames.shape[2:]))
    return out.features.reshape(*frames.shape[:2], -1, DIM)


def films(key, batch):
    """Squares that move to the right where the label is 1, else to the left."""
    labels = jax.random.bernoulli(key, 0.5, (batch,)).astype(jnp.int32)
    start = jax.random.uniform(jax.random.fold_in(key, 1), (batch, 1), minval=8, maxval=20)
    middle = start + (2 * labels[:, None] - 1) * 3.0 * jnp.arange(FRAMES)
    column = jnp.arange(SIZE)
    inside = jnp.abs(column - middle[..., None] % SIZE) < 4  # [B, T, W]
    return jnp.broadcast_to(
        inside[:, :, None, :, None] * 2.0 - 1, (batch, FRAMES, SIZE, SIZE, 3)
    ), labels


model = Head()
run: Any = jax.jit(model.apply)  # (params, carry, x) -> (carry, logits)
start = model.memory.init_carry(16, (SIZE // 14) ** 2)
params = jax.jit(model.init)(jax.random.key(0), start, tokens(films(jax.random.key(0), 16)[0]))
slopes = jax.tree.map(jnp.zeros_like, params)  # of SGD with momentum


def loss_of(params, x, labels):
    _, logits = run(params, start, x)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, -1]), labels[:, None], axis=-1)
    return -chosen.mean(), (logits[:, -1].argmax(-1) == labels).mean()


@jax.jit
def learn(params, slopes, x, labels):
    (loss, right), found = jax.value_and_grad(loss_of, has_aux=True)(params, x, labels)
    slopes = jax.tree.map(lambda s, g: 0.9 * s + g, slopes, found)
    return jax.tree.map(lambda p, s: p - 0.02 * s, params, slopes), slopes, loss, right


for step in range(args.steps):
    frames, labels = films(jax.random.key(step), 16)
    params, slopes, loss, right = learn(params, slopes, tokens(frames), labels)
    if step % 10 == 0 or step == args.steps - 1:
        print(f"step {step:3}  loss {loss:.3f}  right {right:.2f}", flush=True)

# The same parameters frame by frame: a carry in place of the clip.
frames, labels = films(jax.random.key(10**6), 16)
x = tokens(frames)
_, clip = run(params, start, x)
carry, stream = start, []
for t in range(FRAMES):
    carry, logits = run(params, carry, x[:, t : t + 1])
    stream.append(logits)
print(f"right on new films: {float((clip[:, -1].argmax(-1) == labels).mean()):.2f}")
print(f"clip against stream: {float(jnp.abs(jnp.concatenate(stream, 1) - clip).max()):.1e}")
