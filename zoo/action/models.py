"""The action models by name: teachers, their sliding-window streams, and the causal students."""

from __future__ import annotations

from ...layers.hybrid import pattern
from ...layers.mixers import Mix, mix
from ..encode.models import MEAN, STD
from ..registry import Card, register
from .sizes import SIZES
from .student import CausalViT, StudentConfig
from .teacher import VideoMAE, VideoMAEConfig
from .window import SlidingWindow, WindowConfig

NONE = Mix("none")
LARGE = ("ti", "s", "b", "l", "h")

# arch -> (temporal pattern, one line for the card)
STUDENTS: dict[str, tuple[tuple[Mix, ...], str]] = {
    "vit": ((NONE,), "no memory: every frame by itself, the baseline of the students"),
    "tsa": ((mix("shift"),), "temporal shift attention: 1/8 of the channels from the last frame"),
    "dsta": ((mix("lstm"),), "spatial attention, then an LSTM over time per token position"),
    "rglru": ((mix("rglru"),), "spatial attention, then an RG-LRU over time per token position"),
    "gdn": ((NONE, mix("gated_delta")), "a gated delta rule over time in every second block"),
    "swa": ((NONE, NONE, mix("window")), "windowed attention with sinks in every third block"),
    "conv": ((mix("conv"),), "spatial attention, then a causal depthwise convolution over time"),
    "hybrid": (pattern("DDDA"), "three gated delta rules, then a window, as in Qwen3-Next"),
}
PAPER = "Patel et al., Distilling Offline Action Detection Models into Real-Time Streaming Models"
VIDEOMAE = "Tong et al., VideoMAE (arXiv 2203.12602)"


# The small sizes train on a laptop: "mi" reads pixels, "lite0" an ImageNet encoder's features.
SMALL = {
    "mi16": dict(image_size=(96, 96), patch=16),
    "lite0": dict(image_size=(128, 160), patch=32, stem="efficientnet-lite0"),
}
# Depth 4 does not hold every pattern of the large sizes.
SMALL_PATTERNS = {"swa": (NONE, mix("window"))}


def _small() -> None:
    size = SIZES["mi"]
    for name, shape in SMALL.items():
        stem = "stem" in shape
        look: dict = dict(mean=MEAN, std=STD) if stem else {}
        look["input_size"] = shape["image_size"]
        about = "on features of EfficientNet-Lite0" if stem else "96x96 pixels"
        arch = f"videomae-{name}"
        register(
            arch,
            VideoMAE,
            VideoMAEConfig.of("mi", roi_time="last", **shape),
            Card(arch, summary=f"small offline teacher, {about}", streaming=False, **look),
        )
        stream = f"videomae-window-{name}"
        register(
            stream,
            SlidingWindow,
            WindowConfig.of("mi", roi_time="last", **shape),
            Card(stream, summary=f"{arch} over the last 16 frames, at every frame", **look),
        )
        for arch, (temporal, summary) in STUDENTS.items():
            config = StudentConfig(
                dim=size.dim,
                depth=size.depth,
                heads_per_block=size.heads,
                temporal=SMALL_PATTERNS.get(arch, temporal),
                person_cells=2 if stem else 1,
                **shape,
            )
            full = f"{arch}-{name}"
            text = f"small, {about}; {summary}"
            register(full, CausalViT, config, Card(full, summary=text, paper=PAPER, **look))


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
            Card(arch, summary=summary, paper=VIDEOMAE, streaming=False),
        )
        stream = f"videomae-window-{name}16"
        register(
            stream,
            SlidingWindow,
            WindowConfig.of(name),
            Card(stream, summary=f"{arch} over the last 16 frames, at every frame", paper=VIDEOMAE),
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
                paper=VIDEOMAE,
                streaming=False,
            ),
        )


def _students() -> None:
    for arch, (temporal, summary) in STUDENTS.items():
        for name in ("ti", "s", "b"):
            size = SIZES[name]
            config = StudentConfig(
                dim=size.dim, depth=size.depth, heads_per_block=size.heads, temporal=temporal
            )
            full = f"{arch}-{name}16"
            register(full, CausalViT, config, Card(full, summary=summary, paper=PAPER))


_small()
_teachers()
_students()
