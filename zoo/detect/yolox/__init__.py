"""YOLOX: boxes of one convolutional network."""

NAMES = ("yolox-*",)
