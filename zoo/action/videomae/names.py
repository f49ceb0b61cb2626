"""The offline teachers and their sliding-window streams by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...registry import Card, register
from ..sizes import SMALL, WINDOWS, small_look, small_size
from .model import VideoMAE, VideoMAEConfig
from .window import SlidingWindow, WindowConfig

LARGE = ("ti", "s", "b", "l", "h")
PAPER = "Tong et al., VideoMAE (arXiv 2203.12602)"


def _small() -> None:
    for name, shape in SMALL.items():
        about, look = small_look(name)
        size, frames = small_size(name), WINDOWS.get(name, 16)
        fields: Fields = dict(
            frames=frames, dim=size.dim, depth=size.depth, heads=size.heads, **shape
        )
        arch = f"videomae-{name}"
        register(
            arch,
            VideoMAE,
            VideoMAEConfig(roi_time="last", **fields),
            Card(arch, summary=f"small offline teacher, {about}", streaming=False, **look),
        )
        stream = f"videomae-window-{name}"
        register(
            stream,
            SlidingWindow,
            WindowConfig(roi_time="last", **fields),
            Card(stream, summary=f"{arch} over the last {frames} frames, at every frame", **look),
        )


def _teachers() -> None:
    for name in LARGE:
        arch = f"videomae-{name}16"
        summary = (
            f"offline teacher: joint space-time ViT-{name.title()}, 16 frames, tubelets 2x16x16"
        )
        register(
            arch,
            VideoMAE,
            VideoMAEConfig.of(name),
            Card(arch, summary=summary, paper=PAPER, streaming=False),
        )
        stream = f"videomae-window-{name}16"
        register(
            stream,
            SlidingWindow,
            WindowConfig.of(name),
            Card(stream, summary=f"{arch} over the last 16 frames, at every frame", paper=PAPER),
        )
        if name == "ti":
            continue
        register(
            f"{arch}/ava",
            VideoMAE,
            VideoMAEConfig.of(name, head="roi", num_classes=80, roi_grow=(0.1, 0.05)),
            Card(
                f"{arch}/ava",
                summary="the published AVA v2.2 fine-tune's architecture, 16x4 frames; "
                "convert its weights with `streamzoo convert`",
                licence="CC-BY-NC-4.0 (the published weights)",
                mean=(0.48146, 0.45469, 0.40384),
                std=(0.225, 0.225, 0.225),
                frame_rate=30.0,
                paper=PAPER,
                streaming=False,
            ),
        )


_small()
_teachers()
