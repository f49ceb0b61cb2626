"""Several frozen teachers teach one image encoder: agglomerative distillation.

Every teacher has an adapter head (``zoo/encode/adapters.py``) on the student's summary vector and
on its map of patch tokens, and the two are compared with what the teacher says. AM-RADIO, Theia,
DUNE and the three stages of EUPE are values of :class:`AgglomerateConfig`. EUPE's chain, teachers
-> large proxy -> small student, is this task run two or three times, each time with another teacher
(``configs/encoder_proxy.py``, ``configs/encoder_student.py``).

B clips of T frames are N = B T images; Ds and Dp are a teacher's channels, D the student's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .. import zoo
from ..layers.positions import resize_cubic
from ..layers.streaming import Carry, Params
from ..zoo.encode.adapters import Adapters, Widths
from ..zoo.ranges import Checked, Count, Size, Weight, Whole
from ..zoo.registry import Card
from ..zoo.traits import cell_of, class_tokens_of
from .answers import answers, resized, unit_range
from .base import ModelTask
from .data.base import DataError
from .losses import count, masked_mean
from .micro import step_key
from .optim import layer_scale
from .teachers import FrozenTeacher
from .types import Batch, Evaluate, Loss

Array = jax.Array
Sizes = tuple[Size, ...]


@dataclasses.dataclass(frozen=True)
class AgglomerateConfig(Checked):
    """How an encoder learns from several teachers.

    Attributes:
      head: kind of adapter head, one of ``zoo.encode.adapters.HEADS``.
      hidden: width inside ``mlp`` and ``conv`` heads, 0 for the student's.
      summary, spatial: weights of the cosine and the smooth-L1 term, of the summary vector and of
        the map; (0, 0) leaves it out.
      whole: one cosine over all tokens of a map together, instead of one per token.
      gram: weight of Gram anchoring (DINOv3, arXiv 2508.10104, section 4.2): how alike each two
        patches of a picture are in the student's own map, without a head, and in the teacher's.
        There the teacher is an earlier state of the student; it is told as it is (standardise
        False).
      standardise: every coordinate of a teacher's answers gets mean 0 and deviation 1, by fixed
        figures (``answers.measure``) of ``measured`` batches before the first step.
      own_class: teacher i is compared with the student's class token i, not with its summary.
      student_sizes, teacher_sizes: (height, width) in pixels of what each sees, one of them drawn
        at every step, independently; () means the student's own ``image_size``, and the frames as
        they come for the teachers.
    """

    head: str = "mlp"
    hidden: Whole = 1536
    summary: tuple[Weight, Weight] = (1.0, 0.0)
    spatial: tuple[Weight, Weight] = (0.9, 0.1)
    whole: bool = False
    gram: Weight = 0.0
    standardise: bool = True
    measured: Count = 500
    own_class: bool = False
    student_sizes: Sizes = ()
    teacher_sizes: Sizes = ()

    def __post_init__(self):
        super().__post_init__()
        if not any((*self.summary, *self.spatial, self.gram)):
            raise ValueError(
                "summary, spatial and gram: weights of at least 0, one of them above 0"
            )


# EUPE (arXiv 2603.22387), stage 1: teachers -> proxy. The paper's teachers are PEcore-G, PElang-G
# and DINOv3-H+, its proxy has 1.9 B parameters; losses, head, its widths and the standardisation
# are the paper's. Ours: grids are matched after the head,
# and the least deviation that it is divided by.
EUPE = AgglomerateConfig()
# Stage 2: the proxy as the only teacher, both at 256 pixels (rate 2e-5, decay 1e-4, 390k steps of
# 8192); stage 3: each picks one of three sizes (rate 1e-5, 100k steps of 4096). Ours: the sizes
# are drawn per step, not per image, and the figures are measured at the teacher's first size.
EUPE_FIXED = dataclasses.replace(
    EUPE, hidden=3072, student_sizes=((256, 256),), teacher_sizes=((256, 256),)
)
EUPE_PYRAMID = dataclasses.replace(
    EUPE_FIXED,
    student_sizes=((256, 256), (384, 384), (512, 512)),
    teacher_sizes=((256, 256), (384, 384), (512, 512)),
)
# AM-RADIO (arXiv 2312.06709): CLIP, DINOv2 and SAM; MLP heads on a class token per teacher and on
# the map, cosine for the one, 0.9 cosine + 0.1 smooth-L1 for the other (from memory of the paper).
# Not here: SAM's windows, a batch divided among teachers, and the balancing of later RADIOs.
AM_RADIO = AgglomerateConfig(standardise=False, own_class=True)
# Theia (arXiv 2407.20179, and its repository): CLIP, DINOv2, ViT, SAM, Depth Anything; maps only,
# convolutional heads as wide as the student, standardised per channel; its code takes one cosine
# over a whole map. Ours: maps are matched by interpolation, its heads use strided convolutions.
THEIA = AgglomerateConfig("conv", 0, summary=(0.0, 0.0), whole=True)
# DUNE (arXiv 2503.14405): DINOv2, MASt3R, Multi-HMR; transformer heads, losses of UNIC (its
# repository): half cosine and half smooth-L1, mean of summary and map. Not here: dropping teachers
# at random, and statistics that move with the training.
DUNE = AgglomerateConfig("transformer", 0, summary=(0.25, 0.25), spatial=(0.25, 0.25))


def cosine_distance(z: Array, y: Array) -> Array:
    """1 - cosine of vectors [..., D] -> [...], between 0 and 2."""
    length = lambda a: jnp.sqrt(jnp.maximum((a * a).sum(axis=-1), 1e-12))
    return 1.0 - (z * y).sum(axis=-1) / (length(z) * length(y))


def smooth_l1(z: Array, y: Array) -> Array:
    """Huber's loss, quadratic below a difference of 1, mean over D: [..., D] -> [...]."""
    gap = jnp.abs(z - y)
    return jnp.where(gap < 1.0, 0.5 * gap * gap, gap - 0.5).mean(axis=-1)


def gram_distance(z: Array, y: Array) -> Array:
    """Mean squared difference of the cosines of all pairs of patches: [N, h, w, D] and
    [N, h', w', D'] -> [N]; ``y`` is resized to the grid of ``z``."""

    def cosines(a: Array) -> Array:
        a = a.reshape(a.shape[0], -1, a.shape[-1])
        a = a / jnp.sqrt(jnp.maximum((a * a).sum(axis=-1, keepdims=True), 1e-12))
        return a @ a.swapaxes(1, 2)

    gap = cosines(z) - cosines(resize_cubic(y, z.shape[1:3]))
    return (gap * gap).mean(axis=(1, 2))


class Agglomerate(ModelTask):
    """Teachers' answers about frames teach an image encoder.

    A teacher's answers come with the batch, as ``target_<name>_summary`` and
    ``target_<name>_spatial`` (``teachers.taught_by``), or, where ``online`` holds it, are computed
    in the step.

    Args:
      student: an image encoder that gives ``EncoderOutput``; ``variables`` are its first weights.
      card: how its frames are normalised.
      teachers: name -> channels of its answers.
      online: name -> the teacher itself, of those that the batch does not bring.
      statistics: as ``answers.measure`` gives them; None for a config that does not standardise.
      size: (height, width) of the frames as they come.
      evaluate: host code, the student's variables -> figures.

    Raises:
      DataError: sizes that the student cannot take or kept answers cannot follow, too few class
        tokens, or no statistics to standardise by.
    """

    def __init__(
        self,
        student: Any,
        card: Card,
        variables: Params,
        teachers: Mapping[str, Widths],
        config: AgglomerateConfig = EUPE,
        *,
        online: Mapping[str, FrozenTeacher] | None = None,
        statistics: Params | None = None,
        size: tuple[int, int],
        evaluate: Evaluate | None = None,
    ):
        super().__init__(student, card, variables, config, evaluate=evaluate)
        self.student = student
        self.teachers = {n: used(w, config) for n, w in teachers.items()}
        self.online = dict(online or {})
        self.sizes = config.student_sizes or (tuple(student.config.image_size),)
        self.teacher_sizes = config.teacher_sizes or (tuple(size),)
        self._check(statistics)
        frames = jax.ShapeDtypeStruct((1, *self.sizes[0], 3), jnp.float32)
        self.shape = jax.eval_shape(student.apply, variables, frames)
        if self.shape.pooled is None and any(config.summary) and not config.own_class:
            raise DataError(f"{type(student).__name__} has no summary: set summary=(0, 0)")
        dim = self.shape.features.shape[-1]
        self.heads = Adapters(config.head, dim, config.hidden, self.teachers)
        self.constants = {
            "statistics": statistics if config.standardise else {},
            "teachers": {name: teacher.variables for name, teacher in self.online.items()},
        }

    def _check(self, statistics: Params | None) -> None:
        cfg, shape = self.config, self.student.config
        step = cell_of(shape)
        for size in self.sizes:
            if any(side % step for side in size):
                raise DataError(f"student size {size}: not a multiple of its patch, {step} pixels")
        kept = sorted(set(self.teachers) - set(self.online))
        if kept and cfg.teacher_sizes:
            raise DataError(
                f"kept answers of {', '.join(kept)} are of one size: leave teacher_sizes empty, or "
                "set keep_targets=False"
            )
        if cfg.own_class and class_tokens_of(shape) < len(self.teachers):
            raise DataError(
                f"{len(self.teachers)} teachers want a class token each: set class_tokens and "
                "pool_tokens of the student"
            )
        if cfg.standardise and statistics is None:
            raise DataError("standardise needs the figures of answers.measure")

    def variables(self, params: Params) -> Params:
        """What the student's ``apply`` takes, and what is saved: without the heads."""
        return super().variables(params["student"])

    def init(self, key: Array) -> Params:
        given = self._summaries(self.shape), self.shape.features
        given = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), given)
        heads = jax.jit(self.heads.init)(key, *given)
        return {"student": self.first, "heads": heads["params"]}

    rate_scale = staticmethod(layer_scale)

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        pairs = [(s, t) for s in self.sizes for t in self.teacher_sizes]

        counted = count(batch["valid"])  # here: a branch of a switch cannot ask the step

        def at(pair: Any) -> Callable[..., Any]:
            return lambda params: self.compare(params, constants, batch, *pair, counted=counted)

        if len(pairs) == 1:
            return self._summed(at(pairs[0])(params), memory)
        drawn = jax.random.randint(step_key(key), (), 0, len(pairs))
        return self._summed(jax.lax.switch(drawn, [at(pair) for pair in pairs], params), memory)

    def _summed(self, figures: dict[str, Array], memory: Carry) -> Loss:
        cfg = self.config
        total = jnp.float32(0.0)
        for name, value in figures.items():
            part, kind = name.split("/")[1:]
            cosine, smooth = cfg.summary if part == "summary" else cfg.spatial
            total += {"cosine": cosine, "smooth_l1": smooth, "gram": cfg.gram}[kind] * value
        return total, (memory, figures)

    def compare(
        self,
        params: Params,
        constants: Params,
        batch: Batch,
        size: tuple[int, int],
        teacher_size: tuple[int, int],
        counted: Array | None = None,
    ) -> dict[str, Array]:
        """``<teacher>/<summary or spatial>/<cosine or smooth_l1>`` of one pair of sizes, and
        ``<teacher>/spatial/gram`` where it weighs; counted: as in ``losses.masked_mean``."""
        frames = unit_range(batch["frames"])
        mask = batch["valid"].reshape(-1)
        flat = frames.reshape(-1, *frames.shape[2:])
        x = zoo.preprocess(resized(flat, size), self.card)
        out = self.student.apply({"params": params["student"]}, x)
        heads = {"params": params["heads"]}
        said: Any = self.heads.apply(heads, self._summaries(out), out.features)
        figures = {}
        for name, widths in self.teachers.items():
            meant = answers(name, self.online, constants, batch, frames, teacher_size)
            for part in parts_of(widths):
                y = meant[part]
                z = said[name][part].astype(jnp.float32)
                each = self._terms(z, y, whole=self.config.whole and part == "spatial")
                if part == "spatial" and self.config.gram:
                    each["gram"] = gram_distance(out.features.astype(jnp.float32), y)
                for kind, value in each.items():
                    figures[f"{name}/{part}/{kind}"] = masked_mean(value, mask, counted)
        return figures

    def _summaries(self, out: Any) -> Params:
        def pick(index: int) -> Any:
            a = out.prefix if self.config.own_class else out.pooled
            if a is None or not self.config.own_class:
                return a
            if isinstance(a, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct((a.shape[0], a.shape[2]), a.dtype)
            return a[:, index]

        return {name: pick(i) for i, name in enumerate(self.teachers)}

    def _terms(self, z: Array, y: Array, whole: bool) -> dict[str, Array]:
        """Both distances, per image [N]; maps on the larger of the two grids."""
        if z.ndim > 2:
            grid = tuple(max(a, b) for a, b in zip(z.shape[1:3], y.shape[1:3], strict=False))
            z, y = resize_cubic(z, grid), resize_cubic(y, grid)
        flat = lambda a: a.reshape(len(a), -1)
        cosine = cosine_distance(*((flat(z), flat(y)) if whole else (z, y)))
        return {
            "cosine": flat(cosine).mean(axis=1),
            "smooth_l1": flat(smooth_l1(z, y)).mean(axis=1),
        }


def used(widths: Widths, config: AgglomerateConfig) -> Widths:
    """The answers that a config compares: the others have width 0."""
    pairs = zip(widths, (config.summary, (*config.spatial, config.gram)), strict=False)
    return Widths(*(width if any(weights) else 0 for width, weights in pairs))


def parts_of(widths: Widths) -> list[str]:
    """``summary`` and ``spatial``, where there are such."""
    return [part for part, width in widths._asdict().items() if width]
