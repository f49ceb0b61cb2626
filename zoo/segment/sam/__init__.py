"""SAM."""

NAMES = ("sam-*",)
