"""The causal students by name."""

from __future__ import annotations

from ....layers.hybrid import pattern
from ....layers.mixers import Mix, mix
from ...registry import Card, register
from ..sizes import SIZES, SMALL, small_look, small_size
from .model import CausalViT, StudentConfig

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
    "hybrid": (pattern("DDDA"), "three gated delta rules, then a window, as in Qwen3-Next"),
}
# Depth 4 does not hold every pattern of the large sizes.
SMALL_PATTERNS = {"swa": (NONE, mix("window"))}
PAPER = "Patel et al., Distilling Offline Action Detection Models into Real-Time Streaming Models"


def _small() -> None:
    for name, shape in SMALL.items():
        about, look = small_look(name)
        size = small_size(name)
        for arch, (temporal, summary) in STUDENTS.items():
            config = StudentConfig(
                dim=size.dim,
                depth=size.depth,
                heads_per_block=size.heads,
                temporal=SMALL_PATTERNS.get(arch, temporal),
                person_cells=2 if "stem" in shape else 1,
                **shape,
            )
            full = f"{arch}-{name}"
            text = f"small, {about}; {summary}"
            register(full, CausalViT, config, Card(full, summary=text, paper=PAPER, **look))


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
_students()
