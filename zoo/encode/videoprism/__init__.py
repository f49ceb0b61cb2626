"""VideoPrism."""

NAMES = ("videoprism-*",)
