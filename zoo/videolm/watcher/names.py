"""Language models that see, by name; sizes are those of the published configs."""

from __future__ import annotations

import dataclasses

from ....layers.streaming import Fields
from ...encode.families import HALF, OPENAI
from ...encode.vit import ImageViTConfig
from ...registry import Card, register
from ...text.decoder.model import DecoderConfig
from ...text.decoder.names import QWEN, SIZES
from ..qwen_vision import QwenVisionConfig
from .model import VideoWatcher, WatcherConfig, some_frames

LITTLE: Fields = dict(
    vocabulary=300, dim=32, hidden=48, depth=2, heads=4, kv_heads=2, head_dim=8, start=0, end=299
)
TURNING: Fields = dict(sections=(2, 1, 1))


def _siglip(size: int, patch: int, dim: int, hidden: int, depth: int, heads: int, final: str):
    return ImageViTConfig(
        image_size=(size, size), patch=patch, dim=dim, depth=depth, heads=heads,
        mlp_ratio=hidden / dim, activation="gelu_tanh", eps=1e-6, class_tokens=0,
        class_position=False, pool="none", final_norm=final, ragged=True,
    )  # fmt: skip


def _qwen(older: bool, decoder: DecoderConfig, size: int, **vision) -> WatcherConfig:
    encoder = QwenVisionConfig(**vision, modern=not older)
    return WatcherConfig(encoder, decoder, "qwen", image_size=(size, size))


def _smolvlm(vision: ImageViTConfig, decoder: DecoderConfig, factor: int) -> WatcherConfig:
    return WatcherConfig(vision, decoder, "shuffle", factor, image_size=vision.image_size)


def _onevision(vision: ImageViTConfig, decoder: DecoderConfig) -> WatcherConfig:
    return WatcherConfig(vision, decoder, "onevision", image_size=vision.image_size)


def _text(name: str, **fields) -> DecoderConfig:
    return dataclasses.replace(SIZES[name][1], **fields)


BASE = (512, 16, 768, 3072)  # SigLIP base
LARGE = (384, 14, 1152, 4304)  # SigLIP So400m
BODIES: dict[str, WatcherConfig] = {
    "smolvlm2-256m": _smolvlm(
        _siglip(*BASE, 12, 12, "tokens"), _text("smollm2-135m", vocabulary=49_280, tied=False), 4
    ),
    "smolvlm2-500m": _smolvlm(
        _siglip(*BASE, 12, 12, "tokens"), _text("smollm2-360m", vocabulary=49_280, tied=False), 4
    ),
    "smolvlm2-2.2b": _smolvlm(
        _siglip(*LARGE, 27, 16, "tokens"), _text("smollm2-1.7b", vocabulary=49_280, tied=False), 3
    ),
    "llava-onevision-0.5b": _onevision(
        _siglip(*LARGE, 26, 16, "none"), _text("qwen2.5-0.5b", vocabulary=152_000)
    ),
    "qwen2.5-vl-3b": _qwen(
        True,
        dataclasses.replace(
            QWEN, dim=2048, hidden=11_008, depth=36, heads=16, kv_heads=2, head_dim=128,
            biased="qkv", sections=(16, 24, 24),
        ),
        448,
    ),
    "qwen3-vl-2b": _qwen(
        False,
        dataclasses.replace(
            QWEN, dim=2048, hidden=6144, depth=28, heads=16, kv_heads=8, head_dim=128, normed=True,
            theta=5e6, sections=(24, 20, 20), interleaved=True,
        ),
        448,
        dim=1024, hidden=4096, depth=24, heads=16, out=2048, patch=16, window=0, whole=(),
        table=48, taps=(5, 11, 17),
    ),
}  # fmt: skip
SMALL: dict[str, WatcherConfig] = {
    "smolvlm2-tiny": _smolvlm(
        _siglip(16, 4, 32, 48, 2, 4, "tokens"), DecoderConfig(**LITTLE), 2
    ),
    "llava-onevision-tiny": _onevision(
        _siglip(16, 4, 32, 48, 2, 4, "none"), DecoderConfig(**LITTLE, biased="qkv", eps=1e-6)
    ),
    "qwen2.5-vl-tiny": _qwen(
        True, DecoderConfig(**LITTLE, **TURNING, biased="qkv", eps=1e-6), 16,
        dim=32, hidden=48, depth=2, heads=4, out=32, patch=4, window=1, whole=(1,),
    ),
    "qwen3-vl-tiny": _qwen(
        False, DecoderConfig(**LITTLE, **TURNING, interleaved=True, normed=True, eps=1e-6), 16,
        dim=32, hidden=48, depth=2, heads=4, out=32, patch=4, window=0, whole=(), table=4,
        taps=(0,),
    ),
}  # fmt: skip
PAPERS = {
    "smolvlm2": "Marafioti et al., SmolVLM (arXiv 2504.05299)",
    "llava": "Li et al., LLaVA-OneVision (arXiv 2408.03326)",
    "qwen2.5": "Bai et al., Qwen2.5-VL Technical Report (arXiv 2502.13923)",
    "qwen3": "Bai et al., Qwen3-VL Technical Report (arXiv 2511.21631)",
}

for name, config in (BODIES | SMALL).items():
    look = OPENAI if name.startswith("qwen2.5") else HALF
    little = ", in a size for tests" if name in SMALL else ""
    card = Card(
        name,
        summary=f"the word that follows what a stream showed, in constant memory{little}",
        paper=PAPERS[name.partition("-")[0]],
        input_size=config.image_size,
        **look,
    )
    if name in SMALL:
        config = dataclasses.replace(config, slots=24)
    register(name, VideoWatcher, config, card, inputs=some_frames)
