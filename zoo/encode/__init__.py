"""Image and video encoders: frames in, feature maps out, no memory."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .cached import CachedEncoder, FrameMemo
    from .convnext.model import ConvNeXt, ConvNeXtConfig
    from .dual.model import DualEncoder, DualEncoderConfig, TextTower, TextTowerConfig
    from .efficientnet.model import EfficientNetLite, EfficientNetLiteConfig
    from .outputs import EncoderOutput
    from .radio.model import AdaptedConfig, AdaptedEncoder, TeacherHeadConfig
    from .repvit.model import RepViT, RepViTConfig
    from .siglip.naflex import encode_packed
    from .transnetv2.model import TransNetV2, TransNetV2Config, TransNetV2Stream
    from .videoprism.model import VideoPrism, VideoPrismConfig
    from .vit import ImageViT, ImageViTConfig
    from .vjepa2.model import VJEPA2, VJEPA2Config

__all__ = [
    "AdaptedConfig",
    "AdaptedEncoder",
    "CachedEncoder",
    "ConvNeXt",
    "ConvNeXtConfig",
    "DualEncoder",
    "DualEncoderConfig",
    "EfficientNetLite",
    "EfficientNetLiteConfig",
    "EncoderOutput",
    "FrameMemo",
    "ImageViT",
    "ImageViTConfig",
    "RepViT",
    "RepViTConfig",
    "TeacherHeadConfig",
    "TextTower",
    "TextTowerConfig",
    "TransNetV2",
    "TransNetV2Config",
    "TransNetV2Stream",
    "VJEPA2",
    "VJEPA2Config",
    "VideoPrism",
    "VideoPrismConfig",
    "encode_packed",
]
__getattr__ = on_demand(__name__, __file__)
