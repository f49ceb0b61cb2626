"""A stub model: tiny, recurrent, and every answer depends on all frames before."""

import jax.numpy as jnp
import numpy as np

from streamzoo.zoo.registry import Card

SIZE = (4, 6)
CARD = Card("stub", summary="a stub", input_size=SIZE, classes=("a", "b"), mean=(0.5,) * 3)


class Stub:
    """A recurrent net whose every answer depends on all frames before, in order."""

    def init_carry(self, batch, frame_shape):
        del frame_shape
        return {"h": jnp.zeros((batch, 8)), "n": jnp.zeros((batch,), jnp.int32)}

    def apply(self, params, carry, x, valid):
        flat = x[:, 0].reshape(x.shape[0], -1)
        h = jnp.tanh(flat @ params["in"] + carry["h"] @ params["h"])
        keep = valid[:, 0]
        new = {"h": jnp.where(keep[:, None], h, carry["h"]), "n": carry["n"] + keep}
        return new, {"logits": h[:, None, :2], "n": new["n"][:, None]}


def params():
    rng = np.random.default_rng(0)
    size = SIZE[0] * SIZE[1] * 3
    return {
        "in": jnp.asarray(rng.normal(size=(size, 8)) / 9, jnp.float32),
        "h": jnp.asarray(rng.normal(size=(8, 8)) / 2, jnp.float32),
    }


def video(seed, frames, size=SIZE):
    return np.random.default_rng(seed).integers(0, 250, (frames, *size, 3), np.uint8)
