"""DINOv2, DINOv3 and EUPE."""

NAMES = ("dinov2-*", "dinov2reg-*", "dinov3-*", "eupe-*")
