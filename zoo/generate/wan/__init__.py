"""Wan 2.1's video diffusion transformer: teacher, masked student and streaming student."""

NAMES = ("wan-*", "wan2.1-*")
