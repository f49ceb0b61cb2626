"""Depth: how far every pixel is, in single frames and in streams."""
