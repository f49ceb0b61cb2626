"""MoViNet: a published streaming network for what a stream has shown."""

NAMES = ("movinet-*",)
