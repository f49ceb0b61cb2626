"""Robust Video Matting."""

NAMES = ("rvm-*",)
