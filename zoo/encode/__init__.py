"""Image encoders: one frame in, a feature map out, no memory."""

from . import models as _models  # registers the names
from .efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

__all__ = ["EfficientNetLite", "EfficientNetLiteConfig"]
del _models
