"""Language models: tokens [B, T] as streams, a memory of constant size, and texts of tokens."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .decoder.model import Decoder, DecoderConfig, RopeScaling
    from .sentences import Sentences
    from .speak import Speaker
    from .tokenizer import Tokenizer

__all__ = ["Decoder", "DecoderConfig", "RopeScaling", "Sentences", "Speaker", "Tokenizer"]
__getattr__ = on_demand(__name__, __file__)
