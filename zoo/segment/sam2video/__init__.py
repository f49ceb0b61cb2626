"""SAM 2 and 2.1 on video."""

NAMES = ("sam2video-*", "sam2.1video-*")
