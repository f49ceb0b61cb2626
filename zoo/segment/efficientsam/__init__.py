"""EfficientSAM."""

NAMES = ("efficientsam-*",)
