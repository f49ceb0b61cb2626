"""MoveNet: points of persons."""

NAMES = ("movenet-*",)
