"""The causal students by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from ....layers.hybrid import pattern
from ....layers.mixers import Mix, mix
from ....layers.streaming import Fields
from ....layers.transformer import ExpertsConfig
from ...registry import Card, register
from ..sizes import SIZES, SMALL, Size, small_look, small_size
from .model import CausalViT, StudentConfig

NONE = Mix("none")
PAPER = "Patel et al., Distilling Offline Action Detection Models into Real-Time Streaming Models"


class Student(NamedTuple):
    """An architecture: what is the same in all of its sizes, and what follows from the heads."""

    summary: str
    temporal: tuple[Mix, ...] | Callable[[int], tuple[Mix, ...]]  # of the heads of width 64
    fields: Fields = {}
    paper: str = PAPER

    def config(self, size: Size, **fields) -> StudentConfig:
        temporal = self.temporal
        if callable(temporal):
            temporal = temporal(max(1, size.dim // 64))
        whole = -(-size.depth // len(temporal)) * len(temporal)  # periods of the pattern
        given = {"dim": size.dim, "depth": whole, "heads_per_block": size.heads, **self.fields}
        return StudentConfig(temporal=temporal, **{**given, **fields})


def _shared(heads: int) -> int:
    """Key heads: half as many, where that divides."""
    return heads // 2 if heads % 2 == 0 else 1


def _nsa(heads: int) -> tuple[Mix, ...]:
    return NONE, NONE, mix("nsa", kv_heads=max(1, heads // 3))


def _qwen(heads: int) -> tuple[Mix, ...]:
    heads = max(2, heads)  # so that there are fewer key heads
    delta = mix("gated_delta", heads=heads, key_heads=_shared(heads))
    return (*(delta,) * 3, mix("gated_attention", heads=heads, kv_heads=_shared(heads)))


def _jamba(heads: int) -> tuple[Mix, ...]:
    mamba = mix("mamba2", state=64)
    return (*(mamba,) * 4, _unplaced(heads), *(mamba,) * 3)


def _nemotron(heads: int) -> tuple[Mix, ...]:
    return (*(mix("mamba2", state=64, groups=_shared(heads)),) * 5, _unplaced(heads))


def _unplaced(heads: int) -> Mix:
    """Attention without positions: the state-space layers before it know the time."""
    return mix("window", kv_heads=_shared(heads), rope_base=None)


SMOOTH: Fields = dict(norm="rms", mix_norm="rms", biases=False)
QWEN: Fields = dict(gated=True, activation="silu", mlp_ratio=3.0, **SMOOTH)
QWEN_EXPERTS = ExpertsConfig(count=8, active=2, shared=1.0)
JAMBA: Fields = dict(QWEN, mlp_ratio=2.0)
JAMBA_EXPERTS = ExpertsConfig(count=8, active=2, ratio=2.0, normalise=False)

STUDENTS: dict[str, Student] = {
    "vit": Student("no memory: every frame by itself, the baseline of the students", (NONE,)),
    "tsa": Student(
        "temporal shift attention: 1/8 of the channels from the last frame", (mix("shift"),)
    ),
    "dsta": Student("spatial attention, then an LSTM over time per token position", (mix("lstm"),)),
    "rglru": Student(
        "spatial attention, then an RG-LRU over time per token position", (mix("rglru"),)
    ),
    "gdn": Student(
        "a gated delta rule over time in every second block", (NONE, mix("gated_delta"))
    ),
    "swa": Student(
        "windowed attention with sinks in every third block", (NONE, NONE, mix("window"))
    ),
    "conv": Student(
        "spatial attention, then a causal depthwise convolution over time", (mix("conv"),)
    ),
    "hybrid": Student("three gated delta rules, then a window, as in Qwen3-Next", pattern("DDDA")),
    "nsa": Student(
        "native sparse attention over 128 frames in every third block",
        _nsa,
        paper="Yuan et al., Native Sparse Attention (arXiv 2502.11089)",
    ),
    "knn": Student(
        "the nearest pages of a memory of 128 frames in every third block",
        (NONE, NONE, mix("knn")),
        paper="Tworkowski et al., Focused Transformer (arXiv 2307.03170)",
    ),
    "qwennext": Student(
        "Qwen3-Next's layers: three gated delta rules with shared keys, then gated attention",
        _qwen,
        QWEN,
        "Qwen3-Next, as published in transformers",
    ),
    "qwennextmoe": Student(
        "qwennext with 2 of 8 experts and a shared one in place of every MLP",
        _qwen,
        dict(feed="e", experts=QWEN_EXPERTS, **QWEN),
        "Qwen3-Next, as published in transformers",
    ),
    "jamba": Student(
        "Jamba's block: seven Mamba-2 and one attention, experts in every second layer",
        _jamba,
        dict(feed="me", experts=JAMBA_EXPERTS, **JAMBA),
        "Lieber et al., Jamba (arXiv 2403.19887)",
    ),
    "nemotronh": Student(
        "Nemotron-H's layers: five Mamba-2 and one attention, an MLP behind all but the last "
        "Mamba-2",
        _nemotron,
        dict(feed="mmmm-m", activation="relu2", eps=1e-5, **SMOOTH),
        "NVIDIA, Nemotron-H (arXiv 2504.03624); Nemotron Nano 2 (arXiv 2508.14444)",
    ),
}


def _small() -> None:
    for name, shape in SMALL.items():
        about, look = small_look(name)
        size = small_size(name)
        for arch, student in STUDENTS.items():
            config = student.config(size, person_cells=2 if "stem" in shape else 1, **shape)
            if config.temporal[:2] == (NONE, NONE):  # every second block: there are four
                few = dict(temporal=config.temporal[1:], depth=size.depth)
                config = dataclasses.replace(config, **few)
            full = f"{arch}-{name}"
            text = f"small, {about}; {student.summary}"
            register(full, CausalViT, config, Card(full, summary=text, paper=student.paper, **look))


def _students() -> None:
    for arch, student in STUDENTS.items():
        for name in ("ti", "s", "b"):
            full = f"{arch}-{name}16"
            card = Card(full, summary=student.summary, paper=student.paper)
            register(full, CausalViT, student.config(SIZES[name]), card)


_small()
_students()
