"""MediaPipe's hand landmarks."""

NAMES = ("hand-*",)
