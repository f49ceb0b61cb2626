"""MediaPipe's palm detector."""

NAMES = ("palm-*",)
