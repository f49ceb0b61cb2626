"""CLIP's image tower."""

NAMES = ("clip-*",)
