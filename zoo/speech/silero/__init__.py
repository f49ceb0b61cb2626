"""Silero VAD: how likely it is that somebody speaks."""

NAMES = ("silero-*",)
