"""Image and video encoders: frames in, feature maps out, no memory."""

# converters and names register themselves
from . import convert_clip as _convert_clip
from . import convert_dino as _convert_dino
from . import convert_dual as _convert_dual
from . import convert_radio as _convert_radio
from . import convert_video as _convert_video
from . import models as _models
from . import models_conv as _models_conv
from . import models_dual as _models_dual
from . import models_video as _models_video
from . import models_vit as _models_vit
from .cached import CachedEncoder, FrameMemo
from .convnext import ConvNeXt, ConvNeXtConfig
from .dual import DualEncoder, DualEncoderConfig, TextTower, TextTowerConfig
from .efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from .naflex import encode_packed
from .outputs import EncoderOutput
from .repvit import RepViT, RepViTConfig
from .teacher_heads import AdaptedConfig, AdaptedEncoder, TeacherHeadConfig
from .transnetv2 import TransNetV2, TransNetV2Config, TransNetV2Stream
from .videoprism import VideoPrism, VideoPrismConfig
from .vit import ImageViT, ImageViTConfig
from .vjepa2 import VJEPA2, VJEPA2Config

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
del _convert_clip, _convert_dino, _convert_dual, _convert_radio, _convert_video
del _models, _models_conv, _models_dual, _models_video, _models_vit
