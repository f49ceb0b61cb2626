"""Learning from a teacher: a student of one frame at a time learns an offline model's answers."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Carry, Params
from ...zoo.ranges import Checked, Count, Positive, Range, Share, Weight, Whole, renamed
from ...zoo.registry import Card
from .. import losses
from ..base import ModelTask
from ..clip_teacher import ClipTeacher
from ..data.base import DataError
from ..optim import layer_scale
from ..types import Batch, Evaluate, Loss
from .persons import person_terms
from .streams import Array, first_carry, prepared, reset


@renamed(sure="threshold")
@dataclasses.dataclass(frozen=True)
class DistilConfig(Checked):
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
      threshold: score from which the box teacher's box is a person.
      remat: recompute activations in the backward pass.
    """

    logits: Weight = 1.0
    attention: Weight = 1.0
    roi: Weight = 1.0
    person: Weight = 0.0
    weighting: Literal["uncertainty", "fixed"] = "uncertainty"
    floor: Annotated[float, Range(-30, 30)] = -6.0
    variance_rate: Positive = 50.0
    temperature: Positive = 1.0
    blocks: tuple[Whole, ...] = ()
    match_heads: bool = True
    every: Count = 1
    threshold: Share = 0.4
    remat: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not (self.logits or self.attention or self.roi):
            raise ValueError("all of logits, attention and roi are 0: nothing to learn from")


class Distil(ModelTask):
    """A student learns what an offline teacher says, thinks and sees, on videos without labels.

    The target at frame t is the teacher on the window that ends at t; with a teacher of
    ``lookahead`` L > 0 (windows centred as the offline protocol has them) its answer for frame t
    comes L steps later, and the last L frames of a chunk teach nothing.

    Args:
      student: a ``CausalViT``; ``variables`` are its first weights.
      teacher: a ``SlidingWindow`` with its weights, or None where every batch brings ``targets``
        (see ``train.data.targets``).
      evaluate: host code, the student's variables -> metrics.
    """

    apart = ("stem",)

    def __init__(
        self,
        student: Any,
        card: Card,
        variables: Params,
        teacher: Any,
        teacher_variables: Params | None = None,
        config: DistilConfig = DistilConfig(),
        *,
        evaluate: Evaluate | None = None,
        frame_shape: tuple[int, ...] | None = None,
    ):
        super().__init__(student, card, variables, config, evaluate=evaluate)
        self.student, self.teacher = student, teacher
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
        self.constants = {"stem": self.frozen, "teacher": teacher_variables or {}}
        self.online = teacher_variables is not None

    def variables(self, params: Params) -> Params:
        """The student's variables: what ``apply`` takes, and what is saved."""
        return super().variables(params["student"])

    def init(self, key: Array) -> Params:
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

    def init_memory(self, lanes: int) -> Carry:
        shape = self.frame_shape
        memory = {"student": first_carry(self.student, lanes, shape)}
        if self.online:
            memory["teacher"] = first_carry(self.teacher, lanes, shape)
        return memory

    def rate_scale(self, params: Params, decay: float) -> Params:
        scale = layer_scale(params, decay)
        if "log_variance" in params:
            fast = self.config.variance_rate
            faster = jax.tree.map(lambda a: a * fast, scale["log_variance"])
            scale = {**scale, "log_variance": faster}
        return scale

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
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

        def apply(variables: Params, carry: Carry, frames: Array) -> Any:
            return self.student.apply(
                variables, carry, frames, batch["valid"],
                boxes=batch["boxes"], box_valid=batch["box_valid"], taps=taps,
            )  # fmt: skip

        run = jax.checkpoint(apply) if cfg.remat else apply
        carry, out = run(variables, memory["student"], frames)
        here = batch["valid"][:, at] & batch["valid"][:, at + late]
        boxes = batch["box_valid"][:, at] & here[..., None]
        if isinstance(self.teacher, ClipTeacher):  # of the whole frame alone, which is slot 0
            boxes &= jnp.arange(boxes.shape[-1]) == 0
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
        metrics = {name: value for name, value in terms.items() if value.ndim == 0}
        for i, value in enumerate(terms.get("attention", ())):
            metrics[f"attention/{i}"] = value
        if cfg.weighting == "uncertainty":
            s = params["log_variance"]
            total = losses.uncertainty_weighted(terms, s, cfg.floor)
            weights = {n: jnp.exp(-jnp.maximum(v, cfg.floor)) for n, v in s.items()}
            for name, value in weights.items():
                if value.ndim:
                    metrics |= {f"weight/{name}/{i}": v for i, v in enumerate(value)}
                else:
                    metrics[f"weight/{name}"] = value
        else:
            total = jnp.float32(0.0)
            for name, value in terms.items():
                total += getattr(cfg, name) * value.mean()
        if cfg.person:
            features = out.taps["features"]
            found = person_terms(self.student, variables, features, batch, cfg.threshold)
            metrics |= found
            total += cfg.person * (found["objectness"] + found["edges"])
        return total, ({**memory, "student": carry}, metrics)

    def targets(
        self, constants: Params, memory: Carry, frames: Array, batch: Batch
    ) -> tuple[Carry, dict[str, Array]]:
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
