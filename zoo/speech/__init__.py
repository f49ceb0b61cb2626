"""Speech: audio [B, T] at 16 kHz as streams; when somebody speaks, and speech without its noise."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .ancat.model import ANCAT, ANCATConfig
    from .dtln.model import DTLN, DTLNConfig
    from .fastconformer.model import FastConformer, FastConformerConfig
    from .fastconformer.recognise import Recogniser
    from .flowvoice.model import FlowVoice, FlowVoiceConfig
    from .gtcrn.model import GTCRN, GTCRNConfig
    from .moonshine.live import MoonshineLive
    from .moonshine.model import Moonshine, MoonshineConfig
    from .moonshine2.model import MoonshineEncoder, MoonshineEncoderConfig
    from .moonshine2.words import Moonshine2, Moonshine2Config
    from .silero.model import SileroConfig, SileroVAD
    from .whisper.context import ContextConfig, WhisperContext
    from .whisper.live import Live
    from .whisper.model import CarelessWhisper, Whisper, WhisperConfig

__all__ = [
    "ANCAT",
    "DTLN",
    "GTCRN",
    "ANCATConfig",
    "CarelessWhisper",
    "ContextConfig",
    "DTLNConfig",
    "FastConformer",
    "FastConformerConfig",
    "FlowVoice",
    "FlowVoiceConfig",
    "GTCRNConfig",
    "Live",
    "Moonshine",
    "Moonshine2",
    "Moonshine2Config",
    "MoonshineConfig",
    "MoonshineEncoder",
    "MoonshineEncoderConfig",
    "MoonshineLive",
    "Recogniser",
    "SileroConfig",
    "SileroVAD",
    "Whisper",
    "WhisperConfig",
    "WhisperContext",
]
__getattr__ = on_demand(__name__, __file__)
