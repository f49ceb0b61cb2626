"""MediaPipe's BlazePose."""

NAMES = ("blazepose-*",)
