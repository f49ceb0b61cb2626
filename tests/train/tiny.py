"""Tiny teachers, students and batches of what they learn from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.layers.mixers import mix
from streamzoo.train.tasks import Distil, DistilConfig
from streamzoo.zoo import preprocess
from streamzoo.zoo.action import CausalViT, SlidingWindow, StudentConfig, VideoMAE, WindowConfig
from streamzoo.zoo.registry import Card

LANES, STEPS, BOXES, CLASSES = 3, 6, 2, 4
CARD = Card("test", input_size=(32, 32))
SHAPE = dict(image_size=(32, 32), dim=16, depth=2, num_classes=CLASSES)


def weights_of(model, seed, size):
    """Random weights, without zeros and ones that would hide a mistake. Compiles nothing."""
    rng = np.random.default_rng(seed)
    frames = jnp.zeros((1, 1, *size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), frames)

    def fill(path, a):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        x = rng.normal(size=a.shape) * (a.shape[-2] ** -0.5 if name.endswith("kernel") else 0.1)
        return jnp.asarray(x + name.endswith("scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def make_teacher(**fields):
    shape: dict[str, Any] = dict(SHAPE, heads=2, frames=4, roi_time="last") | fields
    model = SlidingWindow(WindowConfig(**shape))
    return model, weights_of(model, 1, shape["image_size"])


def make_student(kind="shift", **fields):
    shape: dict[str, Any] = (
        dict(SHAPE, heads_per_block=2, heads=("roi",), temporal=(mix(kind),)) | fields
    )
    model = CausalViT(StudentConfig(**shape))
    return model, weights_of(model, 2, shape["image_size"])


def make_batch(seed=0, size=(32, 32), steps=STEPS):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.5, (LANES, steps, BOXES, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 0.5, low.shape)], -1)
    box_valid = rng.random((LANES, steps, BOXES)) < 0.8
    return {
        "frames": jnp.asarray(rng.integers(0, 256, (LANES, steps, *size, 3), np.uint8)),
        "boxes": jnp.asarray(boxes, jnp.float32),
        "box_valid": jnp.asarray(box_valid),
        "persons": jnp.asarray(rng.uniform(0, 1, box_valid.shape) * box_valid, jnp.float32),
        "labels": jnp.asarray(rng.random((*box_valid.shape, CLASSES)) < 0.4, jnp.float32),
        "labelled": jnp.asarray(box_valid),
        "fresh": jnp.zeros(LANES, bool),
        "valid": jnp.ones((LANES, steps), bool),
    }


class Run:
    """A task with its loss, and its loss and gradients, compiled when they are asked for."""

    def __init__(self, task):
        self.task = task
        self.params = task.init(jax.random.key(5))
        self.memory = task.init_memory(LANES)
        self.forward = jax.jit(task.loss)
        self.backward = jax.jit(jax.value_and_grad(task.loss, argnums=(0, 1), has_aux=True))

    def _given(self, batch, params=None, memory=None, constants=None, key=9):
        return (
            self.params if params is None else params,
            self.task.constants if constants is None else constants,
            self.memory if memory is None else memory,
            jax.random.key(key),
            batch,
        )

    def __call__(self, batch, **options):
        """(loss, memory, figures)"""
        loss, (memory, figures) = self.forward(*self._given(batch, **options))
        return float(loss), memory, figures

    def slopes(self, batch, **options):
        """(loss, memory, figures, gradient of the parameters, gradient of the constants)"""
        (loss, (memory, figures)), grads = self.backward(*self._given(batch, **options))
        return float(loss), memory, figures, *grads


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def distil(config=DistilConfig(), student=None, teacher=None, card=CARD, **options):
    model, variables = student or make_student()
    stream, weights = teacher or make_teacher()
    return Distil(model, card, variables, stream, weights, config, **options)


def by_frame(model, variables, carry, batch):
    x = preprocess(batch["frames"], CARD)
    apply = jax.jit(lambda c, x, v, b, k: model.apply(variables, c, x, v, boxes=b, box_valid=k))
    outs = []
    for t in range(x.shape[1]):
        at = slice(t, t + 1)
        carry, out = apply(
            carry, x[:, at], batch["valid"][:, at], batch["boxes"][:, at], batch["box_valid"][:, at]
        )
        outs.append(out.box_logits[:, 0])
    return carry, jnp.stack(outs, 1)


def windows_by_hand(teacher, weights, batch, late, memory=()):
    """What the offline teacher says about frame t, from the window of frames cut out by hand."""
    cfg = teacher.config
    offline = jax.jit(lambda x, b, v: VideoMAE(cfg).apply(weights, x, b, v, ("attention", "roi")))
    x = preprocess(batch["frames"], CARD)
    found = []
    for t in range(x.shape[1] - late):
        index = np.arange(t + late - cfg.frames + 1, t + late + 1).clip(min=0)
        out = offline(x[:, index], batch["boxes"][:, t], batch["box_valid"][:, t])
        found.append((out.box_logits, out.taps["roi"], out.taps["attention"]))
    return found
