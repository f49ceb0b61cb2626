"""Grounding DINO: boxes of what a text names."""

NAMES = ("groundingdino-*",)
