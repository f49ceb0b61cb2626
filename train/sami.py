"""SAMI: an image encoder sees a quarter of a frame and learns what a teacher says of the rest.

Source: Xiong et al., "EfficientSAM" (arXiv 2312.00863), section 3.2: 75 % of the patches are
masked, and a cross-attention decoder reconstructs the features of SAM's ViT-H there, by their mean
squared error. Here the error is of the masked patches alone; any teacher with a map will do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .. import zoo
from ..layers.positions import resize_cubic
from ..zoo.encode.adapters import Widths
from ..zoo.encode.masked import MaskedDecoder, encode_visible, random_mask
from ..zoo.encode.vit import ImageViT
from .answers import answers, resized, unit_range
from .data.base import DataError
from .losses import masked_mean
from .optim import layer_scale
from .teachers import FrozenTeacher

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SAMIConfig:
    """Masked pre-training on a teacher's features.

    Attributes:
      mask: share of the patches that the encoder does not see; the paper's.
      dim, depth, heads: of the decoder; ours. dim 0: the student's width.
      standardise: the teacher's coordinates get mean 0 and deviation 1; ours (the paper's teacher
        ends in a norm, others do not).
      measured: batches for that.
    """

    mask: float = 0.75
    dim: int = 0
    depth: int = 4
    heads: int = 4
    standardise: bool = True
    measured: int = 500

    def __post_init__(self):
        if not 0 < self.mask < 1:
            raise ValueError(f"mask={self.mask}: some patches are masked and some are seen")


class SAMI:
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
        card: Any,
        variables: Any,
        teacher: str,
        widths: Widths,
        config: SAMIConfig = SAMIConfig(),
        *,
        online: Mapping[str, FrozenTeacher] | None = None,
        statistics: Any = None,
        size: tuple[int, int],
        evaluate: Callable[[Any], dict[str, float]] | None = None,
    ):
        if not isinstance(student, ImageViT):
            raise DataError(f"SAMI masks the patches of an ImageViT, not of {type(student)}")
        if not widths.spatial:
            raise DataError(f"teacher {teacher!r} says nothing about single patches")
        self.student, self.card, self.config = student, card, config
        self.teacher, self.size = teacher, size
        self.online = dict(online or {})
        self.first = variables["params"]
        shape = student.config
        self.grid = (shape.image_size[0] // shape.patch, shape.image_size[1] // shape.patch)
        dim = config.dim or shape.dim
        self.decoder = MaskedDecoder(dim, widths.spatial, config.depth, config.heads)
        self.constants = {
            "statistics": statistics if config.standardise and statistics else {},
            "teachers": {name: one.variables for name, one in self.online.items()},
        }
        if evaluate is not None:
            self.evaluate = lambda params: evaluate(self.variables(params))

    def variables(self, params: Any) -> Any:
        """What the student's ``apply`` takes, and what is saved: without the decoder."""
        return {"params": params["student"]}

    def init(self, key: Array) -> Any:
        shape, tokens = self.student.config, self.grid[0] * self.grid[1]
        visible, masked = random_mask(key, 1, tokens, self.config.mask)
        encoded = jnp.zeros((1, shape.prefix + visible.shape[1], shape.dim))
        init = jax.jit(lambda key, *given: self.decoder.init(key, *given, self.grid))
        return {"student": self.first, "decoder": init(key, encoded, visible, masked)["params"]}

    def init_memory(self, lanes: int) -> Any:
        return ()

    rate_scale = staticmethod(layer_scale)

    def loss(self, params: Any, constants: Any, memory: Any, key: Array, batch: Any) -> Any:
        frames = unit_range(batch["frames"])
        flat = frames.reshape(-1, *frames.shape[2:])
        tokens = self.grid[0] * self.grid[1]
        visible, masked = random_mask(key, len(flat), tokens, self.config.mask)
        said = self.reconstruct(params, flat, visible, masked)
        meant = answers(self.teacher, self.online, constants, batch, frames, self.size)["spatial"]
        meant = resize_cubic(meant, self.grid).reshape(len(flat), tokens, -1)
        meant = jnp.take_along_axis(meant, masked[..., None], axis=1)
        error = ((said.astype(jnp.float32) - meant) ** 2).mean(axis=(1, 2))
        loss = masked_mean(error, batch["valid"].reshape(-1))
        return loss, (memory, {"error": loss})

    def reconstruct(self, params: Any, frames: Array, visible: Array, masked: Array) -> Array:
        """frames [N, H, W, 3] in 0..1, visible [N, V] and masked [N, M] patch numbers -> what the
        decoder takes the teacher to say at the masked ones [N, M, Dp]."""
        x = zoo.preprocess(resized(frames, self.student.config.image_size), self.card)
        encoded = self.student.apply(
            {"params": params["student"]}, x, visible, method=encode_visible
        )
        decoder = {"params": params["decoder"]}
        said: Any = self.decoder.apply(decoder, encoded, visible, masked, self.grid)
        return said
