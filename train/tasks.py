"""What the loop can learn: from labels (a teacher, or a student for comparison), or from a teacher.

Both train a streaming model through the carry it will have when it runs: each lane of a batch is a
stream, a chunk begins with the carry that the chunk before it left (back-propagation through time
is cut there), and a lane whose video begins anew is reset.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import zoo
from ..zoo.action import VideoMAE
from ..zoo.registry import Card
from . import losses
from .data.base import DataError
from .optim import layer_scale

Array = jax.Array
Batch = dict[str, Array]


def reset(carry: Any, fresh: Array, new: Any) -> Any:
    """Carry with the lanes ``fresh`` [B] as ``new`` says, the others as they were."""
    pick = lambda n, c: jnp.where(fresh.reshape(-1, *[1] * (c.ndim - 1)), n, c)  # noqa: E731
    return jax.tree.map(pick, new, carry)


def first_carry(model: Any, lanes: int, shape: tuple[int, ...] | None) -> Any:
    """Carry of a streaming model for frames of ``shape`` (h, w, 3), or (h, w, F) of a stem's
    features; None: as its config says."""
    if shape is not None and not hasattr(model, "_ring"):
        patch = model.config.patch if shape[-1] != 3 else 1
        shape = (shape[0] * patch, shape[1] * patch)
    return model.init_carry(lanes, shape)


def prepared(frames: Array, card: Card) -> Array:
    """uint8 frames normalised as in streaming; a stem's features as float32."""
    return zoo.preprocess(frames, card) if frames.dtype == jnp.uint8 else frames.astype(jnp.float32)


def split_stem(variables: Any) -> tuple[Any, Any]:
    """(parameters to train, the frozen stem's or {}) of variables ``{"params": ...}``."""
    params = dict(variables["params"])
    return params, {"stem": params.pop("stem")} if "stem" in params else {}


@dataclasses.dataclass(frozen=True)
class SuperviseConfig:
    """Learning from labels.

    Attributes:
      windows: answers per chunk of a model that recomputes a window (a teacher), at random steps
        and through its carry; 0 takes the chunk itself as the clip and answers at every tubelet
        (``VideoMAE.every_tubelet``), which teaches much more per second.
      smoothing: of the labels.
      person: weight of the person head's losses, taught by the box teacher.
      sure: score from which the box teacher's box is a person.
      remat: recompute activations in the backward pass: less memory, more time.
    """

    windows: int = 0
    smoothing: float = 0.0
    person: float = 0.0
    sure: float = 0.4
    remat: bool = False


class Supervise:
    """Labels of boxes teach a streaming model: a sliding-window teacher, or a student.

    Args:
      model: a streaming module with a head for boxes; ``variables`` are its first weights.
      evaluate: host code, variables -> figures.
    """

    def __init__(
        self,
        model: Any,
        card: Card,
        variables: Any,
        config: SuperviseConfig = SuperviseConfig(),
        *,
        evaluate: Callable[[Any], dict[str, float]] | None = None,
        frame_shape: tuple[int, ...] | None = None,
    ):
        self.model, self.card, self.config = model, card, config
        self.frame_shape = frame_shape
        self.first, self.constants = split_stem(variables)
        if evaluate is not None:
            self.evaluate = lambda params: evaluate(self.variables(params))

    def variables(self, params: Any) -> Any:
        """What the model's ``apply`` takes, and what is saved."""
        return {"params": {**params, **self.constants}}

    def init(self, key: Array) -> Any:
        return self.first

    def init_memory(self, lanes: int) -> Any:
        return first_carry(self.model, lanes, self.frame_shape)

    rate_scale = staticmethod(layer_scale)

    def loss(self, params: Any, constants: Any, memory: Any, key: Array, batch: Batch) -> Any:
        cfg = self.config
        steps = batch["valid"].shape[1]
        frames = prepared(batch["frames"], self.card)
        variables = {"params": {**params, **constants}}
        window = hasattr(self.model, "_ring")
        if window and not cfg.windows:
            return self._clips(variables, memory, frames, batch)
        carry = reset(memory, batch["fresh"], self.init_memory(len(batch["fresh"])))
        at, late = jnp.arange(steps), 0
        boxes, box_valid = batch["boxes"], batch["box_valid"]
        extra: dict[str, Any] = {} if window else {"taps": ("features",)}
        if window:
            late = self.model.config.lookahead
            if steps <= late:
                raise ValueError(f"chunks of {steps} frames, look-ahead {late}: raise loop.frames")
            count = min(cfg.windows, steps - late)
            at = jnp.sort(jax.random.choice(key, steps - late, (count,), replace=False))
            extra["at"] = at + late  # answers come that much later, for boxes of their own frames
            boxes, box_valid = (jnp.roll(a, late, axis=1) for a in (boxes, box_valid))

        def apply(variables: Any, carry: Any, frames: Array) -> Any:
            return self.model.apply(
                variables, carry, frames, batch["valid"],
                boxes=boxes, box_valid=box_valid, **extra,
            )  # fmt: skip

        carry, out = (jax.checkpoint(apply) if cfg.remat else apply)(variables, carry, frames)
        figures = {"label": self._compare(out.box_logits, batch, at, late)}
        total = figures["label"]
        if cfg.person and not window:
            found = person_terms(self.model, variables, out.taps["features"], batch, cfg.sure)
            figures |= found
            total += cfg.person * (found["objectness"] + found["edges"])
        return total, (carry, figures)

    def _compare(self, logits: Array, batch: Batch, at: Any, late: int = 0) -> Array:
        known = (batch["labelled"] & batch["box_valid"] & batch["valid"][..., None])[:, at]
        if late:  # the step of the answer exists too
            known &= batch["valid"][:, at + late][..., None]
        labels = batch["labels"][:, at]
        each = losses.label_loss(logits, labels, self.card.multi_label, self.config.smoothing)
        return losses.masked_mean(each, known)

    def _clips(self, variables: Any, memory: Any, frames: Array, batch: Batch) -> Any:
        tubelet = self.model.config.tubelet
        offline = VideoMAE(self.model.config)
        logits: Any = offline.apply(
            variables, frames, batch["boxes"], batch["box_valid"], method="every_tubelet"
        )
        loss = self._compare(logits, batch, slice(tubelet - 1, None, tubelet))
        return loss, (memory, {"label": loss})


def person_terms(model: Any, variables: Any, features: Array, batch: Batch, sure: float) -> Any:
    """The person head's losses on features [B, T, h, w, D], taught by the box teacher's scores."""
    flat = lambda a: a.reshape(-1, *a.shape[2:])  # noqa: E731
    persons = model.apply(variables, flat(features), method=lambda m, x: m.person_head(x))
    scores = jnp.where(batch["valid"][..., None], batch["persons"], 0.0)
    # a frame that never came must not teach that nobody is there
    said = jnp.where(flat(batch["valid"])[:, None, None], persons.objectness, -1e4)
    objectness, edges = losses.person_loss(
        said, persons.edges, flat(batch["boxes"]), flat(scores), sure
    )
    return {"objectness": objectness, "edges": edges}


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """Learning from a teacher, without labels.

    The source paper (Patel et al., WACV 2026) names three signals and a learned uncertainty for
    each; everything else here is this project's choice and therefore a field.

    Attributes:
      logits, attention, roi: weights of the terms: box logits, attention maps (a term per block),
        RoI features. 0 leaves a term out; with ``weighting="uncertainty"`` any other value means 1.
      person: weight of the person head's losses, taught by the box teacher; never learned.
      weighting: "uncertainty" learns a log-variance per term and per block; "fixed" does not.
      floor: lowest log-variance.
      variance_rate: how many times faster than the weights the log-variances learn: they start at
        0 and end near the log of a loss, further than a weight ever goes.
      temperature: of the logits on both sides.
      blocks: for each student block the teacher block whose attention it learns; () spaces them
        evenly, the last one included.
      match_heads: compare head by head where both have as many; else, and where they have not,
        their means.
      every: the teacher answers at every n-th step of a chunk only.
      sure: score from which the box teacher's box is a person.
      remat: recompute activations in the backward pass.
    """

    logits: float = 1.0
    attention: float = 1.0
    roi: float = 1.0
    person: float = 0.0
    weighting: str = "uncertainty"
    floor: float = -6.0
    variance_rate: float = 50.0
    temperature: float = 1.0
    blocks: tuple[int, ...] = ()
    match_heads: bool = True
    every: int = 1
    sure: float = 0.4
    remat: bool = False

    def __post_init__(self):
        if self.weighting not in ("uncertainty", "fixed"):
            raise ValueError(f"weighting {self.weighting!r}: choose uncertainty or fixed")
        if self.every < 1:
            raise ValueError(f"every={self.every}: the teacher answers at every 1st step or rarer")
        if not (self.logits or self.attention or self.roi):
            raise ValueError("all of logits, attention and roi are 0: nothing to learn from")


class Distil:
    """A student learns what an offline teacher says, thinks and sees, on videos without labels.

    The target at frame t is the teacher on the window that ends at t; with a teacher of
    ``lookahead`` L > 0 (windows centred as the offline protocol has them) its answer for frame t
    comes L steps later, and the last L frames of a chunk teach nothing.

    Args:
      student: a ``CausalViT``; ``variables`` are its first weights.
      teacher: a ``SlidingWindow`` with its weights, or None where every batch brings ``targets``
        (see ``train.data.targets``).
      evaluate: host code, the student's variables -> figures.
    """

    def __init__(
        self,
        student: Any,
        card: Card,
        variables: Any,
        teacher: Any,
        teacher_variables: Any = None,
        config: DistilConfig = DistilConfig(),
        *,
        evaluate: Callable[[Any], dict[str, float]] | None = None,
        frame_shape: tuple[int, ...] | None = None,
    ):
        self.student, self.teacher, self.card, self.config = student, teacher, card, config
        self.frame_shape = frame_shape
        s, t = student.config, teacher.config
        if s.grid() != t.grid():
            raise DataError(
                f"student tokens {s.grid()} and teacher tokens {t.grid()} per frame differ: give "
                "them one image size and patch"
            )
        if s.num_classes != t.num_classes:
            raise DataError(f"student has {s.num_classes} classes, teacher {t.num_classes}")
        chosen = np.round(np.linspace(0, t.depth - 1, s.depth)).astype(int).tolist()
        self.blocks = np.asarray(config.blocks or chosen)
        if len(self.blocks) != s.depth or not all(0 <= b < t.depth for b in self.blocks):
            raise ValueError(f"blocks {config.blocks}: {s.depth} numbers from 0 to {t.depth - 1}")
        self.heads = config.match_heads and s.heads_per_block == t.heads
        self.first, stem = split_stem(variables)
        self.constants = {"stem": stem, "teacher": teacher_variables or {}}
        self.online = teacher_variables is not None
        if evaluate is not None:
            self.evaluate = lambda params: evaluate(self.variables(params))

    def variables(self, params: Any) -> Any:
        """The student's variables: what ``apply`` takes, and what is saved."""
        return {"params": {**params["student"], **self.constants["stem"]}}

    def init(self, key: Array) -> Any:
        cfg, s, t = self.config, self.student.config, self.teacher.config
        params: dict[str, Any] = {"student": self.first}
        if cfg.roi and s.dim != t.dim:
            kernel = jax.random.normal(key, (s.dim, t.dim)) / math.sqrt(s.dim)
            params["project"] = {"kernel": kernel, "bias": jnp.zeros(t.dim)}
        if cfg.weighting == "uncertainty":
            shapes = {"logits": (), "attention": (s.depth,), "roi": ()}
            params["log_variance"] = {
                name: jnp.zeros(shape) for name, shape in shapes.items() if getattr(cfg, name)
            }
        return params

    def init_memory(self, lanes: int) -> Any:
        shape = self.frame_shape
        memory = {"student": first_carry(self.student, lanes, shape)}
        if self.online:
            memory["teacher"] = first_carry(self.teacher, lanes, shape)
        return memory

    def rate_scale(self, params: Any, decay: float) -> Any:
        scale = layer_scale(params, decay)
        if "log_variance" in params:
            fast = self.config.variance_rate
            faster = jax.tree.map(lambda a: a * fast, scale["log_variance"])
            scale = {**scale, "log_variance": faster}
        return scale

    def loss(self, params: Any, constants: Any, memory: Any, key: Array, batch: Batch) -> Any:
        cfg = self.config
        memory = reset(memory, batch["fresh"], self.init_memory(len(batch["fresh"])))
        frames = prepared(batch["frames"], self.card)
        memory, want = self.targets(constants, memory, frames, batch)
        late = self.teacher.config.lookahead
        steps = batch["valid"].shape[1]
        if steps <= late:
            raise ValueError(f"chunks of {steps} frames, look-ahead {late}: raise loop.frames")
        # what the teacher says at step t is about frame t - late
        at = jnp.arange(late, steps, cfg.every) - late
        taps = tuple(
            name for name in ("attention", "roi") if getattr(cfg, name)
        ) + (("features",) if cfg.person else ())  # fmt: skip
        variables = {"params": {**params["student"], **constants["stem"]}}

        def apply(variables: Any, carry: Any, frames: Array) -> Any:
            return self.student.apply(
                variables, carry, frames, batch["valid"],
                boxes=batch["boxes"], box_valid=batch["box_valid"], taps=taps,
            )  # fmt: skip

        run = jax.checkpoint(apply) if cfg.remat else apply
        carry, out = run(variables, memory["student"], frames)
        here = batch["valid"][:, at] & batch["valid"][:, at + late]
        boxes = batch["box_valid"][:, at] & here[..., None]
        terms: dict[str, Array] = {}
        if cfg.logits:
            compare = losses.soft_multi_label if self.card.multi_label else losses.soft_class
            each = compare(out.box_logits[:, at], want["logits"], cfg.temperature)
            terms["logits"] = losses.masked_mean(each, boxes)
        if cfg.roi:
            pooled = out.taps["roi"][:, at]
            if "project" in params:
                pooled = pooled @ params["project"]["kernel"] + params["project"]["bias"]
            each = losses.feature_distance(pooled, want["roi"])
            terms["roi"] = losses.masked_mean(each, boxes)
        if cfg.attention:
            rows = out.taps["attention"][:, :, at]  # [L, B, n, H, N, N]
            if not self.heads:
                rows = rows.mean(axis=3, keepdims=True)
            each = losses.attention_divergence(rows, want["attention"]).mean(axis=-1)
            terms["attention"] = jax.vmap(losses.masked_mean, (0, None))(each, here)
        figures = {name: value for name, value in terms.items() if value.ndim == 0}
        for i, value in enumerate(terms.get("attention", ())):
            figures[f"attention/{i}"] = value
        if cfg.weighting == "uncertainty":
            s = params["log_variance"]
            total = losses.uncertainty_weighted(terms, s, cfg.floor)
            weights = {n: jnp.exp(-jnp.maximum(v, cfg.floor)) for n, v in s.items()}
            for name, value in weights.items():
                if value.ndim:
                    figures |= {f"weight/{name}/{i}": v for i, v in enumerate(value)}
                else:
                    figures[f"weight/{name}"] = value
        else:
            total = jnp.float32(0.0)
            for name, value in terms.items():
                total += getattr(cfg, name) * value.mean()
        if cfg.person:
            found = person_terms(self.student, variables, out.taps["features"], batch, cfg.sure)
            figures |= found
            total += cfg.person * (found["objectness"] + found["edges"])
        return total, ({**memory, "student": carry}, figures)

    def targets(
        self, constants: Any, memory: Any, frames: Array, batch: Batch
    ) -> tuple[Any, dict[str, Array]]:
        """(memory, what the teacher says at steps ``lookahead``, ``lookahead + every``, ...).

        ``logits`` [B, n, K, C], ``roi`` [B, n, K, D'], ``attention`` [L, B, n, H or 1, N, N].
        """
        cfg, late = self.config, self.teacher.config.lookahead
        at = jnp.arange(late, frames.shape[1], cfg.every)
        if not self.online:
            want = {
                name.removeprefix("target_"): a[:, at].astype(jnp.float32)
                for name, a in batch.items()
                if name.startswith("target_")
            }
            if cfg.attention:
                # kept as [B, T, L, H, N, N]
                want["attention"] = jnp.moveaxis(want["attention"], 2, 0)
                if not self.heads:
                    want["attention"] = want["attention"].mean(axis=3, keepdims=True)
            return memory, want
        taps = tuple(n for n in ("attention", "roi") if getattr(cfg, n))
        boxes, box_valid = batch["boxes"], batch["box_valid"]
        if late:  # boxes of the frame that is answered for
            boxes, box_valid = (jnp.roll(a, late, axis=1) for a in (boxes, box_valid))
        ring, out = self.teacher.apply(
            constants["teacher"], memory["teacher"], frames, batch["valid"],
            boxes=boxes, box_valid=box_valid, taps=taps, at=at,
        )  # fmt: skip
        want = {"logits": out.box_logits, **{k: out.taps[k] for k in taps}}
        if cfg.attention:
            want["attention"] = self.rows(want["attention"])
        memory = {**memory, "teacher": ring}
        return jax.lax.stop_gradient((memory, want))

    def rows(self, attention: Array) -> Array:
        """The teacher's attention [L', B, n, H, N', N'] -> what the student's should be like."""
        rows, cols = self.student.config.grid()
        back = self.teacher.config.back
        picked = losses.current_rows(attention[self.blocks], rows * cols, back)
        return picked if self.heads else picked.mean(axis=3, keepdims=True)
