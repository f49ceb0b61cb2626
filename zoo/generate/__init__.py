"""Video that is made frame by frame, without end: networks, autoencoders, and the engine that
streams them."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .generator import Generator
    from .pictures import Pictures
    from .state import GeneratorState, Made
    from .taef2.model import TAEF2, TAEF2Config
    from .taehv.model import TAEHV, TAEHVConfig
    from .wan.model import Wan, WanConfig
    from .wan_vae.model import WanVAE, WanVAEConfig

__all__ = [
    "TAEF2", "TAEHV", "Generator", "GeneratorState", "Made", "Pictures", "TAEF2Config",
    "TAEHVConfig", "Wan", "WanConfig", "WanVAE", "WanVAEConfig",
]  # fmt: skip
__getattr__ = on_demand(__name__, __file__)
