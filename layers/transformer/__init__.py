"""One transformer: the block that every model here is a configuration of.

An image encoder, an offline teacher, a causal student, a language model, an audio encoder and a
diffusion transformer differ in the values of a :class:`BlockConfig` and in what they put before and
behind the stack.
"""

from .activations import ACTIVATIONS, gelu
from .approximate import Approximate
from .attention import Attention, CrossAttention, FusedProjection, rotate
from .block import Block, Taps
from .config import BlockConfig
from .experts import Experts, ExpertsConfig
from .mlp import Mlp
from .norms import LayerScale, layer_norm, rms_norm
from .stack import BlockStack

__all__ = [
    "ACTIVATIONS",
    "Approximate",
    "Attention",
    "Block",
    "BlockConfig",
    "BlockStack",
    "CrossAttention",
    "Experts",
    "ExpertsConfig",
    "FusedProjection",
    "LayerScale",
    "Mlp",
    "Taps",
    "gelu",
    "layer_norm",
    "rms_norm",
    "rotate",
]
