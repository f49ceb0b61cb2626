"""Moonshine v2: features of speech, 50 per second, 12 of them late, and words of them."""

NAMES = ("moonshine2-*",)
