"""MediaPipe's selfie segmentation."""

NAMES = ("selfie-*",)
