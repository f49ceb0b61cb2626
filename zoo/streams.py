"""Published models that are offline, as streams: the same parameters, a frame at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..layers.codec.running import follows, runs
from ..layers.streaming import StreamingModule
from .action.videomae.model import VideoMAE
from .action.videomae.window import SlidingWindow, WindowConfig
from .encode.convnext.model import ConvNeXt
from .encode.every_frame import EveryFrame
from .encode.repvit.model import RepViT
from .encode.transnetv2.model import TransNetV2, TransNetV2Stream
from .encode.vit import ImageViT
from .registry import Card


def as_stream(model: Any, card: Card) -> StreamingModule:
    """The streaming module that has ``model``'s parameters.

    A streaming model is itself; an image encoder answers every frame by itself (``CachedEncoder``
    and ``FrameMemo`` do it for less); an offline VideoMAE slides its window over the last frames;
    TransNet V2 answers late.

    Raises:
      ValueError: a model of audio, of whole clips, of prompts on single pictures, or of texts.
    """
    stream = _as_stream(model, card)
    return runs(stream) if follows(model) else stream  # pyright: ignore[reportReturnType]


def _as_stream(model: Any, card: Card) -> Any:
    if isinstance(model, StreamingModule):
        if model.inputs[0] == "audio":
            raise ValueError(
                f"{card.name} hears audio, and the sources here are pictures; it takes samples"
                " [B, T] by carry, out = model.apply(params, carry, samples)"
            )
        return model
    if isinstance(model, ImageViT | ConvNeXt | RepViT):
        return EveryFrame(model)
    if isinstance(model, VideoMAE):
        fields = {f.name: getattr(model.config, f.name) for f in dataclasses.fields(model.config)}
        return SlidingWindow(WindowConfig(**fields))
    if isinstance(model, TransNetV2):
        return TransNetV2Stream(model.config)
    raise ValueError(
        f"{card.name} is a {type(model).__name__}, which answers whole clips or single pictures and"
        " has no form for a stream; `streamzoo list --streaming` shows models that have"
    )
