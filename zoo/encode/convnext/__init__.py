"""ConvNeXt as DINOv3 and EUPE distilled it."""

NAMES = ("dinov3-convnext-*", "eupe-convnext-*")
