"""Segment-anything models of a frame: an encoder, a prompt encoder and a mask decoder.

- ``Sam``: plain ViT with windows, one map (SAM, EfficientSAM);
- ``Sam2``: Hiera and a feature pyramid, skip features for the decoder (SAM 2 and 2.1 on images;
  their memory over frames is a model of its own).

A frame is encoded once (``encode``) and prompted any number of times (``segment``); ``__call__``
does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.ranks import to_rank
from ...layers.streaming import DType
from ..checks import check_taps
from .decoder import DecoderConfig, MaskDecoder, Masks, all_masks, one_mask
from .hiera import HieraConfig
from .outputs import ImageFeatures, SegmentOutput
from .prompt import Prompt, PromptConfig, PromptEncoder
from .trunks import PyramidEncoder
from .window_vit import MapEncoder, WindowVitConfig

Array = jax.Array

SAM_DECODER = DecoderConfig(eps=1e-6, object_score=False, skips=False, iou_sigmoid=False)
EFFICIENTSAM_DECODER = DecoderConfig(
    activation="gelu",
    object_score=False,
    skips=False,
    iou_sigmoid=False,
    upscale_norm="group",
    keep_positions=True,
)


@dataclass(frozen=True)
class SamConfig:
    """Shapes of :class:`Sam`; the defaults are SAM's base size.

    trunk:         the image encoder; its ``image_size`` is the model's
    decoder:       the mask decoder; its ``dim`` is that of the image embedding
    masks:         whether there are mask prompts
    mask_channels: width inside the encoder of mask prompts
    prompt_eps:    of its norms
    points:        fixed number of points per prompt, 0 for as many as are given
    add_no_point:  see :class:`~streamzoo.zoo.segment.prompt.PromptConfig`
    dtype:         compute type; parameters are fp32
    """

    trunk: WindowVitConfig = WindowVitConfig()
    decoder: DecoderConfig = SAM_DECODER
    masks: bool = True
    mask_channels: int = 16
    prompt_eps: float = 1e-6
    points: int = 0
    add_no_point: bool = False
    dtype: DType = "float32"

    @property
    def image_size(self) -> tuple[int, int]:
        return self.trunk.image_size

    @property
    def prompt(self) -> PromptConfig:
        return PromptConfig(
            dim=self.decoder.dim,
            image_size=self.trunk.image_size,
            patch=self.trunk.patch,
            masks=self.masks,
            mask_channels=self.mask_channels,
            eps=self.prompt_eps,
            pad_boxes=False,
            empty_tokens=0,
            points=self.points,
            add_no_point=self.add_no_point,
        )


@dataclass(frozen=True)
class Sam2Config:
    """Shapes of :class:`Sam2`; the defaults are SAM 2's tiny size.

    image_size:    (height, width) of the frames
    trunk:         the image encoder
    decoder:       the mask decoder; its ``dim`` is that of all feature maps
    top_down:      levels of the pyramid (0 the finest of 4) that add the coarser one; the image
                   embedding is level 2
    mask_channels: width inside the encoder of mask prompts
    prompt_eps:    of its norms
    stability:     (delta, threshold) of the single mask, see
                   :func:`~streamzoo.zoo.segment.decoder.one_mask`
    dtype:         compute type; parameters are fp32
    """

    image_size: tuple[int, int] = (1024, 1024)
    trunk: HieraConfig = HieraConfig()
    decoder: DecoderConfig = DecoderConfig()
    top_down: tuple[int, ...] = (2, 3)
    mask_channels: int = 16
    prompt_eps: float = 1e-6
    stability: tuple[float, float] | None = (0.05, 0.98)
    dtype: DType = "float32"

    @property
    def prompt(self) -> PromptConfig:
        return PromptConfig(
            dim=self.decoder.dim,
            image_size=self.image_size,
            patch=16,
            mask_channels=self.mask_channels,
            eps=self.prompt_eps,
        )


class Segmenter(nn.Module):
    """What the models share; a subclass builds its trunk and encodes frames."""

    config: Any
    task = "segment"

    TAPS = ("embedding", "sparse", "dense", "tokens")

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.prompt_encoder = PromptEncoder(self.config.prompt, dtype)
        self.mask_decoder = MaskDecoder(self.config.decoder, dtype)
        self.setup_trunk(dtype)

    def setup_trunk(self, dtype: DType) -> None:
        raise NotImplementedError

    def encode(self, frames: Array, taps: Sequence[str] = ()) -> ImageFeatures:
        raise NotImplementedError

    def prompts(self, *args: Any, **kwargs: Any) -> Prompt:
        """The prompt encoder alone; arguments as its ``__call__``."""
        return self.prompt_encoder(*args, **kwargs)

    def decode(self, features: ImageFeatures, prompt: Prompt) -> Masks:
        """All masks of all prompts, for a caller that chooses among them."""
        return self.mask_decoder(
            features.embedding,
            self.prompt_encoder.image_positions(),
            prompt.sparse,
            prompt.valid,
            prompt.dense,
            features.skips,
        )

    def segment(
        self,
        features: ImageFeatures,
        points: Array | None = None,
        labels: Array | None = None,
        boxes: Array | None = None,
        masks: Array | None = None,
        *,
        multimask: bool = True,
        taps: Sequence[str] = (),
    ) -> SegmentOutput:
        """Prompts an encoded frame; arguments as :meth:`__call__`."""
        if points is None and boxes is None and masks is None:
            raise ValueError("nothing is prompted; give points and labels, boxes or masks")
        batch = features.embedding.shape[0]
        for name, given in dict(points=points, boxes=boxes, masks=masks).items():
            if given is not None and given.shape[0] != batch:
                raise ValueError(
                    f"{name} {tuple(given.shape)} for {batch} images; one row of prompts an image"
                )
        prompt = self.prompts(points, labels, boxes, masks, batch=batch)
        every = self.decode(features, prompt)
        stability = getattr(self.config, "stability", None)
        chosen = all_masks(every) if multimask else one_mask(every, stability)
        known = dict(
            embedding=features.embedding,
            sparse=prompt.sparse,
            dense=prompt.dense,
            tokens=every.tokens,
        )
        found = {k: v for k, v in known.items() if k in taps} | (features.taps or {})
        chosen = jax.tree.map(lambda x: x.astype(jnp.float32), chosen)
        return SegmentOutput(chosen.logits, chosen.iou, chosen.object_logits, found or None)

    def __call__(
        self,
        frames: Array,
        points: Array | None = None,
        labels: Array | None = None,
        boxes: Array | None = None,
        masks: Array | None = None,
        *,
        multimask: bool = True,
        taps: Sequence[str] = (),
    ) -> SegmentOutput:
        """Masks of the prompted objects.

        Args:
          frames: [B, H, W, 3], normalised, of ``config.image_size``.
          points: [B, P, N, 2], (x, y) in pixels of the frames.
          labels: [B, P, N], 1 on the object, 0 beside it; more in
            :class:`~streamzoo.zoo.segment.prompt.PromptEncoder`.
          boxes: [B, P, 4], (x1, y1, x2, y2) in pixels.
          masks: [B, P or 1, 4h, 4w] logits, e.g. those of an earlier answer.
          multimask: three masks for an ambiguous prompt, or one.
          taps: names of intermediates to return, of ``TAPS``.

        Raises:
          ValueError: frames of another size, prompts that cannot be meant, an unknown tap.
        """
        check_taps(taps, self.TAPS)
        features = self.encode(frames, taps)
        return self.segment(features, points, labels, boxes, masks, multimask=multimask, taps=taps)

    def _check(self, frames: Array) -> None:
        want = (*self.config.image_size, 3)
        if frames.ndim != 4 or tuple(frames.shape[1:]) != want:
            raise ValueError(
                f"frames {tuple(frames.shape)}: this model takes [batch, {want[0]}, {want[1]}, 3];"
                " resize them, or create the model with another image_size"
            )
        if not jnp.issubdtype(frames.dtype, jnp.floating):
            raise ValueError(
                f"frames are {frames.dtype}: this model takes normalised floats;"
                " streamzoo.preprocess(frames, card) makes them from uint8"
            )


class Sam(Segmenter):
    """SAM and EfficientSAM."""

    TAPS = Segmenter.TAPS + ("hidden",)

    def setup_trunk(self, dtype: DType) -> None:
        self.image_encoder = MapEncoder(self.config.trunk, self.config.decoder.dim, dtype)

    def encode(self, frames: Array, taps: Sequence[str] = ()) -> ImageFeatures:
        """frames [B, H, W, 3] -> features; tap ``hidden`` [L, B, h, w, C]."""
        self._check(frames)
        x, hidden = self.image_encoder(frames, "hidden" in taps)
        return ImageFeatures(x, None, None if hidden is None else {"hidden": hidden})


class Sam2(Segmenter):
    """SAM 2 and 2.1 on single frames; ``no_memory`` [D] stands for the memory they lack."""

    TAPS = Segmenter.TAPS + ("stages",)

    def setup_trunk(self, dtype: DType) -> None:
        c = self.config
        self.image_encoder = PyramidEncoder(c.trunk, c.decoder.dim, c.top_down, dtype)
        self.no_memory = self.param("no_memory", nn.initializers.normal(0.02), (c.decoder.dim,))

    def encode(
        self, frames: Array, taps: Sequence[str] = (), *, memory: bool = False
    ) -> ImageFeatures:
        """frames [B, H, W, 3] -> features; tap ``stages``: the last map of every stage.

        memory: leave ``no_memory`` out, for a caller that adds memories to the embedding.
        """
        self._check(frames)
        trunk: Any = self.image_encoder.trunk
        maps = trunk(frames) if "stages" in taps else None
        *high, embedding = (
            self.image_encoder(frames) if maps is None else self.image_encoder.neck(maps)
        )
        skips = self.mask_decoder.project(*high) if self.config.decoder.skips else None
        if not memory:
            embedding = embedding + to_rank(self.no_memory.astype(embedding.dtype), embedding)
        return ImageFeatures(embedding, skips, None if maps is None else {"stages": maps})
