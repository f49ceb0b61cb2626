"""SAMI: an image encoder sees a quarter of a frame and learns what a teacher says of the rest.

Source: Xiong et al., "EfficientSAM" (arXiv 2312.00863), section 3.2: 75 % of the patches are
masked, and a cross-attention decoder reconstructs the features of SAM's ViT-H there, by their mean
squared error. Here the error is of the masked patches alone; any teacher with a map will do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from .. import zoo
from ..layers.positions import resize_cubic
from ..layers.streaming import Carry, Params
from ..zoo.encode.adapters import Widths
from ..zoo.encode.masked import MaskedDecoder, encode_visible, random_mask
from ..zoo.encode.vit import ImageViT
from ..zoo.ranges import Checked, Count, Range, Whole
from ..zoo.registry import Card
from .answers import answers, resized, unit_range
from .base import ModelTask
from .data.base import DataError
from .losses import masked_mean
from .micro import lane_keys
from .optim import layer_scale
from .teachers import FrozenTeacher
from .types import Batch, Evaluate, Loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SAMIConfig(Checked):
    """Masked pre-training on a teacher's features.

    Attributes:
      mask: share of the patches that the encoder does not see; the paper's.
      dim, depth, heads: of the decoder; ours. dim 0: the student's width.
      standardise: the teacher's coordinates get mean 0 and deviation 1; ours (the paper's teacher
        ends in a norm, others do not).
      measured: batches for that.
    """

    mask: Annotated[float, Range(0, 1, above=True, below=True)] = 0.75
    dim: Whole = 0
    depth: Count = 4
    heads: Count = 4
    standardise: bool = True
    measured: Count = 500


class SAMI(ModelTask):
    """A teacher's features of hidden patches teach an image encoder.

    Args:
      student: an ``ImageViT``; ``variables`` are its first weights. It sees frames of its
        ``image_size``.
      teacher: name of the one teacher, whose answers the batch brings (``target_<name>_spatial``),
        or which ``online`` holds.
      widths: channels of its answers.
      statistics, size, evaluate: as of :class:`~streamzoo.train.agglomerate.Agglomerate`.

    Raises:
      DataError: a student of another kind, or a teacher without a map.
    """

    def __init__(
        self,
        student: Any,
        card: Card,
        variables: Params,
        teacher: str,
        widths: Widths,
        config: SAMIConfig = SAMIConfig(),
        *,
        online: Mapping[str, FrozenTeacher] | None = None,
        statistics: Params | None = None,
        size: tuple[int, int],
        evaluate: Evaluate | None = None,
    ):
        if not isinstance(student, ImageViT):
            raise DataError(f"SAMI masks the patches of an ImageViT, not of {type(student)}")
        if not widths.spatial:
            raise DataError(f"teacher {teacher!r} says nothing about single patches")
        super().__init__(student, card, variables, config, evaluate=evaluate)
        self.student = student
        self.teacher, self.size = teacher, size
        self.online = dict(online or {})
        shape = student.config
        self.grid = (shape.image_size[0] // shape.patch, shape.image_size[1] // shape.patch)
        dim = config.dim or shape.dim
        self.decoder = MaskedDecoder(dim, widths.spatial, config.depth, config.heads)
        self.constants = {
            "statistics": statistics if config.standardise and statistics else {},
            "teachers": {name: one.variables for name, one in self.online.items()},
        }

    def variables(self, params: Params) -> Params:
        """What the student's ``apply`` takes, and what is saved: without the decoder."""
        return super().variables(params["student"])

    def init(self, key: Array) -> Params:
        shape, tokens = self.student.config, self.grid[0] * self.grid[1]
        visible, masked = random_mask(key, 1, tokens, self.config.mask)
        encoded = jnp.zeros((1, shape.prefix + visible.shape[1], shape.dim))
        init = jax.jit(lambda key, *given: self.decoder.init(key, *given, self.grid))
        return {"student": self.first, "decoder": init(key, encoded, visible, masked)["params"]}

    rate_scale = staticmethod(layer_scale)

    def loss(
        self, params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> Loss:
        frames = unit_range(batch["frames"])
        flat = frames.reshape(-1, *frames.shape[2:])
        tokens = self.grid[0] * self.grid[1]
        visible, masked = self.hidden(key, *frames.shape[:2])
        said = self.reconstruct(params, flat, visible, masked)
        meant = answers(self.teacher, self.online, constants, batch, frames, self.size)["spatial"]
        meant = resize_cubic(meant, self.grid).reshape(len(flat), tokens, -1)
        meant = jnp.take_along_axis(meant, masked[..., None], axis=1)
        error = ((said.astype(jnp.float32) - meant) ** 2).mean(axis=(1, 2))
        loss = masked_mean(error, batch["valid"].reshape(-1))
        return loss, (memory, {"error": loss})

    def hidden(self, key: Array, lanes: int, steps: int) -> tuple[Array, Array]:
        """Patch numbers (visible [N, V], masked [N, M]) of N = lanes * steps frames, drawn lane by
        lane."""
        tokens, share = self.grid[0] * self.grid[1], self.config.mask
        draw: Any = lambda one: random_mask(one, steps, tokens, share)
        found = jax.vmap(draw)(lane_keys(key, lanes))
        return tuple(a.reshape(lanes * steps, -1) for a in found)  # pyright: ignore

    def reconstruct(self, params: Params, frames: Array, visible: Array, masked: Array) -> Array:
        """frames [N, H, W, 3] in 0..1, visible [N, V] and masked [N, M] patch numbers -> what the
        decoder takes the teacher to say at the masked ones [N, M, Dp]."""
        x = zoo.preprocess(resized(frames, self.student.config.image_size), self.card)
        encoded = self.student.apply(
            {"params": params["student"]}, x, visible, method=encode_visible
        )
        decoder = {"params": params["decoder"]}
        said: Any = self.decoder.apply(decoder, encoded, visible, masked, self.grid)
        return said
