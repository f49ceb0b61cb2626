"""The published sizes."""

from __future__ import annotations

import dataclasses

from .hiera import HieraConfig
from .window_vit import WindowVitConfig

SAM_SIZES: dict[str, WindowVitConfig] = {
    "b16": WindowVitConfig(),
    "l16": WindowVitConfig(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "h16": WindowVitConfig(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}

_PLAIN = WindowVitConfig(window=0, global_blocks=(), relative=False, position_grid=(14, 14))

EFFICIENTSAM_SIZES: dict[str, WindowVitConfig] = {
    "ti16": dataclasses.replace(_PLAIN, dim=192, heads=3),
    "s16": dataclasses.replace(_PLAIN, dim=384, heads=6),
}

_WINDOWS = WindowVitConfig(relative=False, position_grid=(14, 14))

EFFICIENTTAM_SIZES: dict[str, WindowVitConfig] = {
    "ti16": dataclasses.replace(_WINDOWS, dim=192, heads=3),
    "s16": dataclasses.replace(_WINDOWS, dim=384, heads=6),
}

HIERA_SIZES: dict[str, HieraConfig] = {
    "t": HieraConfig(),
    "s": HieraConfig(blocks=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
    "bp": HieraConfig(
        dims=(112, 224, 448, 896),
        heads=(2, 4, 8, 16),
        blocks=(2, 3, 16, 3),
        global_blocks=(12, 16, 20),
        background=(14, 14),
    ),
    "l": HieraConfig(
        dims=(144, 288, 576, 1152),
        heads=(2, 4, 8, 16),
        blocks=(2, 6, 36, 4),
        windows=(8, 4, 16, 8),
        global_blocks=(23, 33, 43),
    ),
}
