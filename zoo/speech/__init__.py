"""Speech: audio [B, T] at 16 kHz as streams; when somebody speaks, and speech without its noise."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .dtln.model import DTLN, DTLNConfig
    from .gtcrn.model import GTCRN, GTCRNConfig
    from .moonshine.model import Moonshine, MoonshineConfig
    from .moonshine2.model import MoonshineEncoder, MoonshineEncoderConfig
    from .silero.model import SileroConfig, SileroVAD

__all__ = [
    "DTLN",
    "GTCRN",
    "DTLNConfig",
    "GTCRNConfig",
    "Moonshine",
    "MoonshineConfig",
    "MoonshineEncoder",
    "MoonshineEncoderConfig",
    "SileroConfig",
    "SileroVAD",
]
__getattr__ = on_demand(__name__, __file__)
