"""VGGT: cameras, depth and points of several views at once, and of a stream."""

NAMES = ("vggt-*", "vggtstream-*")
