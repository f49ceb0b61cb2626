"""EfficientNet-Lite."""

NAMES = ("efficientnet-*",)
