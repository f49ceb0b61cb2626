"""Moonshine v2: features of speech, 50 per second, 12 of them late."""

NAMES = ("moonshine2-*",)
