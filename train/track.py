"""Learning to track: a tracker is shown the first frame's mask, box or a point, then finds the
object by what it remembers.

A clip runs through the carry that the tracker will have when it runs. Losses as SAM 2's (Ravi et
al., arXiv 2408.00714, appendix D): masks, the quality that the tracker gives them, and whether
the object is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import zoo
from ..zoo.registry import Card
from ..zoo.segment.outputs import resize_logits
from ..zoo.segment.prompt import ABSENT, BOTTOM_RIGHT, TOP_LEFT
from ..zoo.segment.stream import Prompts, no_prompts
from .data import mask_clips
from .data.base import DataError
from .data.davis import Davis, MaskClip
from .data.mask_clips import Augment
from .loop import Job, LoopConfig
from .losses import masked_mean
from .metrics.jf import jf, region_similarity, tracking_length
from .tasks import prepared

Array = jax.Array
TRUNK = "efficientnet-lite0/imagenet"  # the weights of a tracker's EfficientNet-Lite0


@dataclasses.dataclass(frozen=True)
class TrackConfig:
    """Weights of the terms, and how often the first frame is shown by mask, box or point.

    Attributes:
      pixels, dice: of the masks: cross-entropy per pixel, and overlap.
      quality: of the difference between the tracker's own estimate of IoU and the true one.
      presence: of the object score's cross-entropy.
      prompts: parts of the clips prompted by mask, box, point.
    """

    pixels: float = 2.0
    dice: float = 1.0
    quality: float = 0.2
    presence: float = 0.2
    prompts: tuple[float, float, float] = (0.6, 0.2, 0.2)

    def __post_init__(self):
        if len(self.prompts) != 3 or min(self.prompts) < 0 or not sum(self.prompts):
            raise ValueError(f"prompts {self.prompts}: parts of mask, box, point, not all 0")


def pixel_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy, mean over the last two axes: [..., h, w], target in [0, 1] -> [...]."""
    return (jax.nn.softplus(logits) - target * logits).mean((-2, -1))


def dice_loss(logits: Array, target: Array) -> Array:
    """1 - Dice with one pixel of smoothing: [..., h, w] -> [...]."""
    p = jax.nn.sigmoid(logits)
    both = (p * target).sum((-2, -1))
    return 1 - (2 * both + 1) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def first_prompt(key: Array, masks: Array, points: int, parts: tuple[float, ...]) -> Prompts:
    """Prompts with leaves [B, T, 1, ...] of clips with masks [B, T, H, W] bool: on the first frame
    its mask, its box or a random point on it, each as often as ``parts`` say.

    A tracker with one point slot gets no boxes.
    """
    batch, steps, height, width = masks.shape
    kind_key, point_key = jax.random.split(key)
    share = jnp.asarray(parts, jnp.float32) * jnp.asarray([1, points > 1, 1])
    kind = jax.random.choice(kind_key, 3, (batch,), p=share / share.sum())
    first = masks[:, 0]
    noise = jnp.where(first, jax.random.uniform(point_key, first.shape), -1.0)
    at = noise.reshape(batch, -1).argmax(1)
    point = jnp.stack([at % width, at // width], -1) + 0.5
    cols, rows = first.any(1), first.any(2)
    low = jnp.stack([cols.argmax(1), rows.argmax(1)], -1)
    high = jnp.stack([width - cols[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)], -1)
    box = (kind == 1)[:, None, None]
    xy = jnp.where(box, jnp.stack([low, high], 1), jnp.stack([point, point], 1))[:, :points]
    corners, click = jnp.asarray([TOP_LEFT, BOTTOM_RIGHT]), jnp.asarray([1, ABSENT])
    labels = jnp.where(box[..., 0], corners, click)[:, :points]
    now = (jnp.arange(steps) == 0)[None, :, None]
    none = no_prompts(batch, steps, 1, points, (height, width))
    n = xy.shape[1]
    assert none.masks is not None
    return dataclasses.replace(
        none,
        points=jnp.asarray(none.points).at[:, 0, 0, :n].set(xy.astype(jnp.float32)),
        labels=jnp.asarray(none.labels).at[:, 0, 0, :n].set(labels),
        pointed=now & (kind != 0)[:, None, None],
        masks=jnp.asarray(none.masks).at[:, 0, 0].set(first),
        masked=now & (kind == 0)[:, None, None],
    )


class Track:
    """The task; see ``loop.Task``. Batches: ``frames`` [B, T, H, W, 3] uint8 and ``masks``
    [B, T, H, W] bool, in the first frame not empty.

    Args:
      model: the tracker that learns, with one object slot and a frozen ``trunk``.
      variables: its first weights.
      evaluate: host code, variables -> figures.
    """

    def __init__(
        self,
        model: Any,
        card: Card,
        variables: Any,
        config: TrackConfig = TrackConfig(),
        *,
        evaluate: Callable[[Any], dict[str, float]] | None = None,
    ):
        if model.config.objects != 1:
            raise ValueError("training takes a tracker with objects=1")
        self.model, self.card, self.config = model, card, config
        self.first, self.constants = split_trunk(variables)
        if evaluate is not None:
            self.evaluate = lambda params: evaluate(self.variables(params))

    def variables(self, params: Any) -> Any:
        """What the tracker's ``apply`` takes, and what is saved."""
        return join_trunk(params, self.constants)

    def init(self, key: Array) -> Any:
        return self.first

    def init_memory(self, lanes: int) -> Any:
        return ()

    def loss(self, params: Any, constants: Any, memory: Any, key: Array, batch: Any) -> Any:
        c = self.config
        prompts = first_prompt(key, batch["masks"], self.model.config.points, c.prompts)
        frames = prepared(batch["frames"], self.card)
        carry, variables = self.model.init_carry(len(frames)), join_trunk(params, constants)
        _, out = self.model.apply(variables, carry, frames, None, prompts)
        terms = compare(out, batch["masks"], ~prompts.masked[:, :, 0])
        total = sum(getattr(c, name) * terms[name] for name in TERMS)
        return total, (memory, terms)


TERMS = ("pixels", "dice", "quality", "presence")


def compare(out: Any, masks: Array, asked: Array) -> dict[str, Array]:
    """The terms of the loss, and the IoU, of ``Tracks`` with one object.

    masks: [B, T, H, W] bool, the truth; asked: [B, T] bool, the tracker had to find the mask.
    Mask and quality count where the object is in the picture.
    """
    logits = out.masks[:, :, 0].astype(jnp.float32)
    (batch, steps, height, width), (h, w) = masks.shape, logits.shape[-2:]
    cells = masks.reshape(batch, steps, h, height // h, w, width // w)
    target = cells.mean((3, 5), dtype=jnp.float32)  # the covered part of each cell
    there = masks.any((-2, -1))
    counts = asked & there
    said, true = logits > 0, target > 0.5
    union = (said | true).sum((-2, -1))
    iou = (said & true).sum((-2, -1)) / jnp.maximum(union, 1)
    score = out.scores[:, :, 0]
    return {
        "pixels": masked_mean(pixel_loss(logits, target), counts),
        "dice": masked_mean(dice_loss(logits, target), counts),
        "quality": masked_mean(jnp.abs(out.iou[:, :, 0] - iou), counts),
        "presence": masked_mean(jax.nn.softplus(score) - there * score, asked),
        "iou": masked_mean(iou, counts),
    }


def split_trunk(variables: Any) -> tuple[Any, Any]:
    """(parameters to train, the frozen trunk's)."""
    params = dict(variables["params"])
    return params, {"trunk": params.pop("trunk")}


def join_trunk(params: Any, constants: Any) -> Any:
    """The inverse of :func:`split_trunk`."""
    return {"params": {**params, **constants}}


def with_trunk(variables: Any) -> Any:
    """Variables of a tracker whose EfficientNet-Lite0 has its weights."""
    params, found = split_trunk(variables)
    known = zoo.load_weights(TRUNK)["params"]
    return join_trunk(params, {"trunk": {name: known[name] for name in found["trunk"]}})


# --- measuring -------------------------------------------------------------------------------


def inner_point(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of a pixel deepest inside a mask [H, W]: the last one left of peeling its border.

    Raises ValueError for an empty mask.
    """
    left = np.asarray(mask, bool)
    if not left.any():
        raise ValueError("an empty mask has no point inside")
    while True:
        wide = np.pad(left, 1)
        inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:] & left
        if not inner.any():
            y, x = np.argwhere(left)[left.sum() // 2]
            return float(x) + 0.5, float(y) + 0.5
        left = inner


def sequence_masks(
    model: Any, variables: Any, card: Card, source: Davis, native: Davis, prompt: str = "mask"
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """(sequence, (annotation, result)), both [T, H, W] of 0 and 1, frame by frame through the
    carry. The first frame's ``prompt`` is its "mask" or a "point" inside it.

    source: at the tracker's size. native: the same sequences in the size in which masks count.
    """
    config = model.config

    @jax.jit
    def step(carry: Any, frame: Array, prompts: Prompts) -> Any:
        return model.apply(variables, carry, prepared(frame[None, None], card), None, prompts)

    for video, name in enumerate(source.videos):
        clip, truth = source.read(video), native.read(video).masks > 0
        to_size = jax.jit(lambda x, size=truth.shape[1:]: resize_logits(x, size=size) > 0)
        carry, found = model.init_carry(1), []
        for index, frame in enumerate(clip.frames):
            given = _given(config, clip, prompt) if index == 0 else _nothing(config)
            carry, out = step(carry, frame, given)
            found.append(np.asarray(to_size(out.masks[0, 0]))[0])
        yield name, (truth.astype(np.uint8), np.stack(found).astype(np.uint8))


def _nothing(config: Any) -> Prompts:
    return no_prompts(1, 1, config.objects, config.points, config.image_size)


def _given(config: Any, clip: MaskClip, prompt: str) -> Prompts:
    prompts, mask = _nothing(config), clip.masks[0] > 0
    if prompt == "mask":
        np.asarray(prompts.masks)[0, 0, 0] = mask
        np.asarray(prompts.masked)[0, 0, 0] = True
    else:
        np.asarray(prompts.points)[0, 0, 0, 0] = inner_point(mask)
        np.asarray(prompts.labels)[0, 0, 0, 0] = 1
        np.asarray(prompts.pointed)[0, 0, 0] = True
    return prompts


def figures(pairs: list[tuple[str, tuple[np.ndarray, np.ndarray]]]) -> dict[str, float]:
    """J&F, J and F over sequences, J&F of each, and ``kept``: the mean part of a sequence before
    the object is lost (5 frames in a row with J of at most 0.1)."""
    result = jf(pairs)
    kept = []
    for _, (truth, found) in pairs:
        j = region_similarity(truth > 0, found > 0)
        seen = np.asarray(truth.any((1, 2)))
        kept.append(tracking_length(j, seen, threshold=0.1, patience=5) / len(j))
    return {
        "J&F": result.jf,
        "J": result.j,
        "F": result.f,
        "kept": float(np.mean(kept)),
        **{f"J&F/{name[:-2]}": (j + f) / 2 for name, (j, f) in result.per_object.items()},
    }


# --- the recipe ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrackRecipe:
    """All of a tracker's training run.

    Attributes:
      path: DAVIS, an archive or a folder.
      sequences: to learn from; held_out: to measure on, at the end and every ``loop.eval_every``.
      model: a registered tracker.
      size: (height, width) of the frames in training; () for the tracker's own, which it is
        measured at.
      weights: a file or name to start from; "" for random ones and a pretrained trunk.
      augment: how clips are changed.
      track: the loss.
    """

    path: str = ""
    sequences: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    model: str = "tracker-lite0"
    size: tuple[int, ...] = ()
    weights: str = ""
    augment: Augment = Augment()
    track: TrackConfig = TrackConfig()
    loop: LoopConfig = LoopConfig()

    def build(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        loop, name = self.loop, self.model
        if both := sorted(set(self.sequences) & set(self.held_out)):
            raise DataError(f"{both[0]} is in sequences and in held_out")
        fields: dict[str, Any] = dict(objects=1, prompted_slots=1, dtype=loop.dtype)
        if self.size:
            fields["image_size"] = self.size
        model: Any
        model, variables = zoo.init_params(name, seed=loop.seed, **fields)
        variables = with_trunk(variables)
        if self.weights:
            variables = zoo.load_weights(self.weights, template=variables)
        card = zoo.model_card(name)
        source = Davis(self.path, self.sequences, size=model.config.image_size)
        score = (lambda variables: self.measure(variables)) if self.held_out else None
        task: Any = Track(model, card, variables, self.track, evaluate=score)
        task.header = {"model": name, "config": {"dtype": loop.dtype}}

        def batches(host: int, hosts: int) -> Any:
            return mask_clips.batches(
                source, loop.lanes, loop.frames, loop.seed, self.augment, host=host, hosts=hosts
            )

        return Job(task, batches, source)

    def measure(self, variables: Any, prompt: str = "mask") -> dict[str, float]:
        """Figures on the held-out sequences, as :func:`figures`. Raises DataError: there are
        none."""
        if not self.held_out:
            raise DataError("this config has no test data: set held_out to names of sequences")
        model: Any = zoo.create_model(self.model, objects=1)
        card = zoo.model_card(self.model)
        source = Davis(self.path, self.held_out, size=model.config.image_size)
        native = Davis(self.path, self.held_out)
        return figures(list(sequence_masks(model, variables, card, source, native, prompt)))

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Figures of a weights file or name. Raises as :meth:`build`."""
        return self.measure(zoo.load_weights(weights))
