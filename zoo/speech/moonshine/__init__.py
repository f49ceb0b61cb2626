"""Moonshine: an offline recogniser of speech, its tokens, and text from utterances."""

NAMES = ("moonshine-*",)
