"""A config that trains in a moment: a small recurrent net on made-up streams, for tests.

TOY_KILL, TOY_TERM: the step before which the process kills, or asks itself to stop.
"""

from __future__ import annotations

import dataclasses
import os
import signal

import grain
import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.train import losses
from streamzoo.train.base import BaseRecipe
from streamzoo.train.loop import Job, LoopConfig
from streamzoo.train.optim import OptimConfig

WIDTH = 8


@dataclasses.dataclass(frozen=True)
class Data:
    size: int = WIDTH
    nan_at: int = -1
    scale_at: int = -1


class Steps:
    """Batches of the lanes of one process, a pure function of the step."""

    def __init__(self, lanes, frames, data, process, processes):
        self.lanes, self.frames, self.data = lanes, frames, data
        self.mine = slice(process * lanes // processes, (process + 1) * lanes // processes)

    def __len__(self):
        return 10**9

    def __getitem__(self, step):
        rng = np.random.default_rng((7, int(step)))
        x = rng.normal(size=(self.lanes, self.frames, self.data.size)).astype(np.float32)
        y = np.cumsum(x.mean(-1), axis=1)
        y = np.where(step == self.data.nan_at, np.nan, y)
        y = np.where(0 <= self.data.scale_at <= step, y + 1e3, y).astype(np.float32)
        # some lanes hold more than others: a mean of their means is not the whole's
        valid = rng.random(y.shape) < np.linspace(0.1, 1, self.lanes)[:, None]
        batch = {"x": x, "y": y, "fresh": rng.random(self.lanes) < 0.2, "valid": valid}
        return {name: value[self.mine] for name, value in batch.items()}


class Batches:
    """grain's iterator, which also obeys TOY_KILL and TOY_TERM."""

    def __init__(self, steps):
        self.steps = iter(grain.MapDataset.source(steps).to_iter_dataset())
        self.get_state, self.set_state = self.steps.get_state, self.steps.set_state

    def __iter__(self):
        return self

    def __next__(self):
        step = self.get_state()["next_index"]
        for name, sent in (("TOY_KILL", signal.SIGKILL), ("TOY_TERM", signal.SIGTERM)):
            if os.environ.get(name) == str(step):
                os.kill(os.getpid(), sent)
        return next(self.steps)


class Toy:
    """Leaky mean of x through ``depth`` residual layers; the label is a running sum."""

    constants = {"leak": jnp.float32(0.5)}

    def __init__(self, width=WIDTH, depth=2, noise=0.0):
        self.width, self.depth, self.noise = width, depth, noise

    def init(self, key):
        keys = jax.random.split(key, 3)
        wide = 2 * self.width
        up = jax.random.normal(keys[0], (self.depth, self.width, wide)) / 3
        down = jax.random.normal(keys[1], (self.depth, wide, self.width)) / 4
        layer = {
            "up": {"kernel": up, "bias": jnp.zeros((self.depth, wide))},
            "down": {"kernel": down, "bias": jnp.zeros((self.depth, self.width))},
        }
        head = {"kernel": jax.random.normal(keys[2], (self.width, 1)), "bias": jnp.zeros(1)}
        return {
            "patch_embed": {"kernel": jnp.eye(self.width)},
            "blocks": {"layer0": {"mlp": layer}},
            "head": head,
            "log_variance": {"attention": jnp.zeros(self.depth)},
        }

    def init_memory(self, lanes):
        return {"h": jnp.zeros((lanes, self.width))}

    def loss(self, params, constants, memory, key, batch):
        layer, head = params["blocks"]["layer0"]["mlp"], params["head"]

        def block(z, given):
            up = jnp.tanh(z @ given["up"]["kernel"] + given["up"]["bias"])
            return z + up @ given["down"]["kernel"] + given["down"]["bias"], None

        z, _ = jax.lax.scan(block, batch["x"] @ params["patch_embed"]["kernel"], layer)
        h = jnp.where(batch["fresh"][:, None], 0, memory["h"])

        def leaky(h, z):
            h = constants["leak"] * h + z
            return h, (h @ head["kernel"])[:, 0] + head["bias"]

        h, outs = jax.lax.scan(leaky, h, z.swapaxes(0, 1))
        error = outs.T - batch["y"]
        if self.noise:
            error = error + self.noise * jax.random.normal(key, error.shape)
        weights = jnp.exp(-params["log_variance"]["attention"])
        figures = {"error": jnp.abs(error).mean()}
        figures |= {f"weight/attention/{i}": w for i, w in enumerate(weights)}
        return losses.masked_mean(error**2, batch["valid"]), ({"h": h}, figures)

    def evaluate(self, params):
        return {"size": float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)))}


class Source:
    videos = ("one", "two")
    classes = ()
    skipped = {"three": "cannot be decoded"}


@dataclasses.dataclass(frozen=True)
class Config(BaseRecipe):
    width: int = WIDTH
    noise: float = 0.1
    data: Data = Data()
    loop: LoopConfig = LoopConfig(
        steps=24,
        batch=8,
        frames=3,
        log_every=4,
        checkpoint_every=5,
        tensorboard=False,
        optim=OptimConfig(learning_rate=1e-2, ema=0.9, layer_decay=0.9),
    )

    def job(self):
        loop = self.loop
        return Job(
            Toy(self.width, noise=self.noise),
            lambda i, n: Batches(Steps(loop.batch, loop.frames, self.data, i, n)),
            Source(),
        )


CONFIG = Config()
