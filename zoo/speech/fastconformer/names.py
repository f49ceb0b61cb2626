"""FastConformer by name."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import FastConformer, FastConformerConfig

FACTS: Fields = dict(
    licence="Apache-2.0",  # of the published code; their weights have licences of their own
    paper="Noroozi et al., Stateful Conformer with Cache-based Inference (arXiv 2312.17279)",
    input_size=(1, 1),  # no pictures
    frame_rate=float(RATE),
    value_range=(-1.0, 1.0),
)
SIZES = {
    "l": FastConformerConfig(),
    "xl": FastConformerConfig(dim=1024, hidden=4096, depth=24, layers=2, ctc=False),
}

for size, config in SIZES.items():
    name = f"fastconformer-{size}"
    heads = "CTC and transducer" if config.ctc else "transducer"
    model = FastConformer(config)
    register(
        name,
        FastConformer,
        config,
        Card(
            name,
            summary=f"words while they are spoken ({heads}); look-ahead of 0 to 1.04 s",
            latency=model.latency,
            **FACTS,
        ),
        inputs=some_audio,
    )
