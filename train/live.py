"""Learning to watch many cameras: a lane is a scene, whose cameras are one batch of a live model.

A scene runs from its first frame to its last through the carry that the model will have when it
runs. What is learned: who is in the picture and where, that somebody comes or goes, the next
frame's feature, and the anomaly of ``data.handover``, which no camera sees alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .. import zoo
from ..zoo.encode.stems import PRETRAINED, stem_stride, stem_width
from ..zoo.live import CrossStream
from ..zoo.registry import Card
from . import losses
from .data import handover
from .data.base import DataError, Source
from .data.handover import CameraClips, Scenes
from .data.stored import Featured
from .loop import Job, LoopConfig
from .losses import masked_mean
from .metrics.average_precision import top1
from .metrics.stream import auc, detection_map, f1_score
from .stems import encoder, with_stem
from .tasks import prepared, split_stem

Array = jax.Array
CHUNK = 8  # test scenes at once: one shape, one compile
SEEN = 3  # frames in view before a camera counts as having shown its actor


@dataclasses.dataclass(frozen=True)
class LiveLoss:
    """Weights of the terms.

    Attributes:
      label: classes of the frame and of each box.
      person: the person head's two losses.
      event, anomaly: cross-entropy of the two scores.
      future: of the next frame's fused feature, against doing without a change.
      match: HRM's likeness of two cameras, which should tell whether they have shown the same
        actor (re-identification). Of any two cameras of the batch: an anomaly is one answer per
        camera, and that is little to learn to compare from. Taught with HRM on and off alike.
      cross: with HRM; False teaches every camera by itself.
    """

    label: float = 1.0
    person: float = 0.2
    event: float = 0.5
    anomaly: float = 2.0
    future: float = 0.1
    match: float = 0.5
    cross: bool = True


def score_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy of a probability's logits, element by element."""
    return jax.nn.softplus(logits) - target * logits


def future_loss(expected: Array, features: Array) -> tuple[Array, Array]:
    """(squared error of the expected next features, the same of repeating the last one).

    expected, features [..., T, E] -> scalars; features are targets and get no gradient.
    """
    features = jax.lax.stop_gradient(features)
    after = features[..., 1:, :]
    miss = lambda a: ((a[..., :-1, :] - after) ** 2).mean()  # noqa: E731
    return miss(expected), miss(features)


def match_loss(scores: Array, looks: Array, known: Array) -> Array:
    """Cross-entropy of "the same actor", the two answers weighed alike.

    scores [..., N, N] log-odds, symmetric or not; looks [N] int; known [..., N] bool: this camera
    has shown its actor. A camera is not compared with itself. Scalar.
    """
    pair = known[..., :, None] & known[..., None, :] & ~jnp.eye(len(looks), dtype=bool)
    same = looks[:, None] == looks[None, :]
    pair, same = (jnp.broadcast_to(a, scores.shape) for a in (pair, same))
    missed = masked_mean(jax.nn.softplus(-scores), pair & same)
    return missed + masked_mean(jax.nn.softplus(scores), pair & ~same)


def over_scenes(
    model: Any,
    variables: Any,
    frames: Array,
    cross: Any,
    taps: tuple[str, ...] = (),
    **extra: Array,
) -> Any:
    """Answers [S, C, T, ...] of scenes [S, C, T, ...] from their first frames on.

    cross: bool or a scalar array of it, with HRM or without; taps and extra [S, C, T, ...]: to
    the model.
    """
    cameras = frames.shape[1]
    active = jnp.broadcast_to(jnp.asarray(cross), (cameras,))
    size = frames.shape[3:5] if frames.shape[-1] == 3 else model.config.image_size
    start = model.init_carry(cameras, size)
    apply = functools.partial(model.apply, variables, start, active=active, taps=taps)
    run = lambda f, e: apply(f, **e)[1]  # noqa: E731
    return jax.vmap(run)(frames, extra)


class Live:
    """The task; see ``loop.Task``. Batches: what ``handover.Scenes`` gives.

    Args:
      model: a ``zoo.live.LiveModel``; variables: its first weights.
      evaluate: host code, variables -> figures.
    """

    def __init__(
        self,
        model: Any,
        card: Card,
        variables: Any,
        config: LiveLoss = LiveLoss(),
        *,
        evaluate: Callable[[Any], dict[str, float]] | None = None,
    ):
        self.model, self.card, self.config = model, card, config
        frozen = model.config.stem in PRETRAINED
        self.first, stem = split_stem(variables) if frozen else (variables["params"], {})
        # data, as the model has it: with and without HRM it is one program
        self.constants = {"stem": stem, "cross": jnp.asarray(config.cross)}
        if evaluate is not None:
            self.evaluate = lambda params: evaluate(self.variables(params))

    def variables(self, params: Any) -> Any:
        """What the model's ``apply`` takes, and what is saved."""
        return {"params": {**params, **self.constants["stem"]}}

    def init(self, key: Array) -> Any:
        return self.first

    def init_memory(self, lanes: int) -> Any:
        return ()

    def loss(self, params: Any, constants: Any, memory: Any, key: Array, batch: Any) -> Any:
        c, variables = self.config, {"params": {**params, **constants["stem"]}}
        # boxes are given, so that the classes of boxes are learned apart from finding them
        out = over_scenes(
            self.model, variables, prepared(batch["frames"], self.card), constants["cross"],
            ("token",), boxes=batch["boxes"], box_valid=batch["box_valid"],
        )  # fmt: skip
        flat = lambda a: a.reshape(-1, *a.shape[3:])  # noqa: E731
        heat, edges = losses.person_loss(
            flat(out.person["objectness"]), flat(out.person["edges"]), flat(batch["boxes"]),
            flat(batch["box_valid"]).astype(jnp.float32),
        )  # fmt: skip
        terms = compare(out, batch) | {"objectness": heat, "edges": edges}
        terms["match"] = self._match(
            params, *(a.reshape(-1, *a.shape[2:]) for a in (out.taps["token"], batch["labels"]))
        )
        total = c.person * (heat + edges)
        for name in ("label", "event", "anomaly", "future", "match"):
            total += getattr(c, name) * terms[name]
        return total, (memory, terms)

    def _match(self, params: Any, tokens: Array, labels: Array) -> Array:
        """tokens [N, T, D], labels [N, T, K, C] of the cameras of all scenes -> scalar."""
        config = self.model.config
        hrm = CrossStream(config.key_dim, config.cross_heads, jnp.dtype(config.dtype))
        half = max(config.period // 2, 1)  # at every look at the others, and once between
        at = jnp.arange(half, tokens.shape[1], half)
        score: Any = lambda x: hrm.apply({"params": params["hrm"]}, x, method="scores")  # noqa: E731
        scores = jax.vmap(score)(tokens[:, at].swapaxes(0, 1))
        shown = jnp.cumsum(labels.max(axis=(2, 3)), axis=1)[:, at] >= SEEN
        looks = labels.max(axis=(1, 2)).argmax(axis=-1)
        return match_loss(scores, looks, shown.T[:, None])


def compare(out: Any, batch: Any) -> dict[str, Array]:
    """The terms of the loss but the person head's, of answers and truth [S, C, T, ...]."""
    seen = batch["labels"].max(axis=-2)
    frame = losses.label_loss(out.logits, seen, True, 0.0).mean()
    box = losses.label_loss(out.box_logits, batch["labels"], True, 0.0)
    future, repeat = future_loss(out.next_features, out.features)
    known = batch["known"].astype(jnp.float32)
    return {
        "label": frame + masked_mean(box, batch["box_valid"]),
        "event": score_loss(out.event_logits, batch["event"]).mean(),
        "anomaly": masked_mean(score_loss(out.anomaly_logits, batch["anomaly"]), known),
        "future": future / (jax.lax.stop_gradient(repeat) + 1e-6),
    }


# --- measuring -------------------------------------------------------------------------------


def figures(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Of answers and truth of scenes, arrays [S, C, T, ...] by name (see :func:`measure`).

    ``anomaly_f1``, ``anomaly_auc``: one example per camera of a pair, its score the mean over the
    frames after the time limit; F1 at a probability of 0.5. ``always_f1``: of always saying yes.
    ``event_f1``: per frame. ``class_f1``: per frame and class, at 0.5. ``iou``: of the best box
    found with an actor in view. ``future``: error of the expected next feature over the error of
    repeating the last one.
    """
    all_ = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    judged = all_["judged"]
    asked = (all_["known"] & (np.arange(handover.FRAMES) >= handover.ENTERING[0]))[judged]
    late = asked & (np.cumsum(~all_["known"][judged], axis=1) > 0)
    score = (all_["anomaly_score"][judged] * late).sum(1) / np.maximum(late.sum(1), 1)
    truth = all_["anomaly"][judged].max(1) > 0
    said = all_["class_score"] > 0.5
    return {
        "anomaly_f1": f1_score(score > 0.5, truth),
        "anomaly_auc": auc(score, truth),
        "always_f1": f1_score(np.ones_like(truth), truth),
        "event_f1": f1_score(all_["event_score"] > 0.5, all_["event"] > 0),
        "class_f1": f1_score(said, all_["labels"].max(-2) > 0),
        "iou": float(all_["iou"][all_["box_valid"][..., 0]].mean()),
        "future": float(all_["future"].sum() / all_["repeat"].sum()),
    }


def recognised(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Of the same rows: ``top1``, how often a frame's most certain class is that of an actor in
    view (frames without one do not count), and ``mAP``, detection at IoU 0.5 over all frames, a
    box scored by its certainty times its class's."""
    all_ = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    frames: Any = lambda name, axes: all_[name].reshape(-1, *all_[name].shape[-axes:])  # noqa: E731
    labels, sure = frames("labels", 2), frames("box_score", 1)[..., None]
    return {
        "top1": top1(frames("class_score", 1), labels.max(axis=1)),
        "mAP": detection_map(
            frames("box", 2), frames("found", 1), sure * frames("box_class_score", 2),
            frames("boxes", 2), labels,
        ),
    }  # fmt: skip


def best_iou(boxes: Array, scores: Array, truth: Array) -> Array:
    """IoU of the most certain of boxes [..., K, 4] with truth [..., 4]."""
    best = jnp.argmax(scores, axis=-1)
    box = jnp.take_along_axis(boxes, best[..., None, None], axis=-2)[..., 0, :]
    low, high = jnp.maximum(box[..., :2], truth[..., :2]), jnp.minimum(box[..., 2:], truth[..., 2:])
    area = lambda size: jnp.prod(jnp.maximum(size, 0.0), axis=-1)  # noqa: E731
    both = area(high - low)
    one = area(box[..., 2:] - box[..., :2]) + area(truth[..., 2:] - truth[..., :2])
    return both / jnp.maximum(one - both, 1e-9)


def measure(
    model: Any, variables: Any, card: Card, scenes: Scenes, count: int, *, cross: bool = True
) -> dict[str, float]:
    """:func:`figures` and :func:`recognised` of at least ``count`` scenes, with HRM (``cross``) or
    without."""

    @jax.jit
    def run(variables: Any, batch: Any, cross: Array) -> dict[str, Array]:
        out = over_scenes(model, variables, prepared(batch["frames"], card), cross)
        errors = lambda a: ((a[..., :-1, :] - out.features[..., 1:, :]) ** 2).sum(-1)  # noqa: E731
        return {
            "anomaly_score": out.anomaly,
            "event_score": out.event,
            "class_score": jax.nn.sigmoid(out.logits),
            "box": out.boxes,
            "found": out.box_valid,
            "box_score": out.box_scores,
            "box_class_score": jax.nn.sigmoid(out.box_logits),
            "iou": best_iou(out.boxes, out.box_scores, batch["boxes"][..., 0, :]),
            "future": errors(out.next_features),
            "repeat": errors(out.features),
        }

    rows, on = [], jnp.asarray(cross)
    for index in range(-(-count // CHUNK)):
        lanes = [scenes.scene(index, lane) for lane in range(CHUNK)]
        batch = {name: np.stack([one[name] for one in lanes]) for name in lanes[0]}
        answers = {name: np.asarray(a) for name, a in run(variables, batch, on).items()}
        rows.append({**{n: a for n, a in batch.items() if n != "frames"}, **answers})
    return figures(rows) | recognised(rows)


# --- the recipe ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LiveRecipe:
    """All of a live model's training run.

    Attributes:
      variants, test_variants: surroundings per role, of other seeds; see ``handover``.
      scenes: test scenes.
      test_seed: of the test clips and scenes. 0 was looked at while the recipe was made.
      pairs, bystanders: cameras of a scene: two per pair, and one per bystander.
      size: (height, width) of the frames.
      model: a registered live model; width: of its features, keys and memory, 0 for the registered
        ones; depth: passes of its refinement.
      weights: a file or name to start from; "" for random ones and a pretrained stem.
      live: the loss.
      cache: folder for the frozen stem's features.
      loop: ``lanes`` counts scenes; ``frames`` is theirs.
    """

    variants: int = 20
    test_variants: int = 6
    scenes: int = 128
    test_seed: int = 1
    pairs: int = 2
    bystanders: int = 1
    size: tuple[int, int] = (64, 96)
    model: str = "live-mi-lite0"
    width: int = 64
    depth: int = 2
    weights: str = ""
    live: LiveLoss = LiveLoss()
    cache: str = "runs/cache"
    loop: LoopConfig = LoopConfig(frames=handover.FRAMES)
    frame_rate: ClassVar[float] = handover.RATE

    def fields(self) -> dict[str, Any]:
        """Of the model's config."""
        names = ("embed", "key_dim", "dim")
        widths = dict.fromkeys(names, self.width) | {"hidden": 2 * self.width}
        return dict(
            image_size=self.size, classes=handover.LOOKS, depth=self.depth, max_boxes=4,
            roi_size=2,  # the map has two rows
            dtype=self.loop.dtype, **(widths if self.width else {}),
        )  # fmt: skip

    def open(self, split: str, mine: range) -> Scenes:
        """Scenes of a split, as features where the model's stem is a frozen one."""
        train = split == "train"
        count, seed = (self.variants, 0) if train else (self.test_variants, self.test_seed)
        clips = CameraClips(count, self.size, seed, split)
        stem = zoo.model_config(self.model).stem
        card = zoo.model_card(self.model)
        frames = _frames(clips, stem if stem in PRETRAINED else "", card, self.cache)
        return Scenes(clips, frames, mine, self.loop.seed, self.pairs, self.bystanders)

    def build(self) -> Job:
        """Opens the data and makes the task. Raises DataError and the errors of ``zoo.load``."""
        loop, name, fields = self.loop, self.model, self.fields()
        if loop.frames != handover.FRAMES:
            raise DataError(f"scenes have {handover.FRAMES} frames: set loop.frames to that")
        model: Any
        model, variables = self._start()
        if self.weights:
            variables = zoo.load_weights(self.weights, template=variables)
        task: Any = Live(
            model, zoo.model_card(name), variables, self.live, evaluate=lambda v: self.measure(v)
        )
        task.header = {"model": name, "config": fields, "classes": list(CameraClips.classes)}

        def batches(host: int, hosts: int) -> Any:
            if loop.lanes % hosts:
                raise DataError(f"lanes={loop.lanes} cannot be shared by {hosts} hosts evenly")
            each = loop.lanes // hosts
            mine = range(host * each, (host + 1) * each)
            return handover.batches(self.open("train", mine))

        return Job(task, batches)

    def _start(self) -> tuple[Any, Any]:
        """The model and its first weights; a frozen stem's are not drawn, only loaded."""
        model: Any = zoo.create_model(self.model, **self.fields())
        stem = model.config.stem
        if stem not in PRETRAINED:
            return zoo.init_params(self.model, seed=self.loop.seed, **self.fields())
        cells = (side // stem_stride(stem) for side in self.size)
        features = jnp.zeros((1, 1, *cells, stem_width(stem)))
        start = jax.jit(lambda key: model.init(key, model.init_carry(1), features))
        return model, with_stem(start(jax.random.key(self.loop.seed)), stem)

    def measure(
        self, variables: Any, *, cross: bool | None = None, model: Any = None
    ) -> dict[str, float]:
        """Figures on the test scenes, the same ones for every seed of the training.

        cross: with HRM or without, None: as trained; model: by default this recipe's.
        """
        model = model or zoo.create_model(self.model, **self.fields())
        test = self.open("test", range(CHUNK))
        test.seed = self.test_seed
        on = self.live.cross if cross is None else cross
        card = zoo.model_card(self.model)
        return measure(model, variables, card, test, self.scenes, cross=on)

    def evaluate_file(self, weights: str | Path) -> dict[str, float]:
        """Figures of a weights file or name, in the form it was trained in but for HRM, which is
        on or off as ``live.cross`` says. Raises as :meth:`build`."""
        model: Any
        model, variables = zoo.load(weights)
        if getattr(model.config, "classes", None) != handover.LOOKS:
            raise DataError(f"{weights}: the test scenes have {handover.LOOKS} looks, it has not")
        return self.measure(variables, model=model)


def _frames(clips: CameraClips, stem: str, card: Card, cache: str) -> Callable[[int], np.ndarray]:
    """Number of a video -> its frames, or the features of a frozen stem (kept in ``cache``)."""
    if not stem:
        return lambda video: clips.read(video, 0, handover.FRAMES).frames
    source: Source = clips
    kept = Featured(source, encoder(stem, card), cache, stem)
    return lambda video: np.asarray(kept.store[kept.first[video] : kept.first[video + 1]])
