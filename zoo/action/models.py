"""The action models by name: teachers, their sliding-window streams, and the causal students."""

from __future__ import annotations

from ...layers.mixers import Mix, mix
from ..registry import Card, register
from .sizes import SIZES
from .student import CausalViT, StudentConfig
from .teacher import VideoMAE, VideoMAEConfig
from .window import SlidingWindow, WindowConfig

NONE = Mix("none")

# arch -> (temporal pattern, one line for the card)
STUDENTS: dict[str, tuple[tuple[Mix, ...], str]] = {
    "vit": ((NONE,), "no memory: every frame by itself, the baseline of the students"),
    "tsa": ((mix("shift"),), "temporal shift attention: 1/8 of the channels from the last frame"),
    "dsta": ((mix("lstm"),), "spatial attention, then an LSTM over time per token position"),
    "rglru": ((mix("rglru"),), "spatial attention, then an RG-LRU over time per token position"),
    "gdn": ((NONE, mix("gated_delta")), "a gated delta rule over time in every second block"),
    "swa": ((NONE, NONE, mix("window")), "windowed attention with sinks in every third block"),
    "conv": ((mix("conv"),), "spatial attention, then a causal depthwise convolution over time"),
}
PAPER = "Patel et al., Distilling Offline Action Detection Models into Real-Time Streaming Models"
VIDEOMAE = "Tong et al., VideoMAE (arXiv 2203.12602)"


def _teachers() -> None:
    for name in SIZES:
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


_teachers()
_students()
