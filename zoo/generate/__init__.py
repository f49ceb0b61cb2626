"""Video that is made frame by frame, without end: networks, and the engine that streams them."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .generator import Generator
    from .state import GeneratorState, Made
    from .wan.model import Wan, WanConfig

__all__ = ["Generator", "GeneratorState", "Made", "Wan", "WanConfig"]
__getattr__ = on_demand(__name__, __file__)
