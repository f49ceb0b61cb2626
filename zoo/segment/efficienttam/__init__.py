"""EfficientTAM."""

NAMES = ("efficienttam-*",)
