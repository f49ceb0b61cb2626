"""Depth Pro: sharp metric depth from pieces of a picture at three scales."""

NAMES = ("depthpro-*",)
