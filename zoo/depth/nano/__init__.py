"""Depth by a small decoder on a frozen convolutional encoder."""

NAMES = ("depth-nano",)
