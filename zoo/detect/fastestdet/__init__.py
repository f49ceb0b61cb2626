"""FastestDet: boxes of a network of a quarter of a million parameters."""

NAMES = ("fastestdet-*",)
