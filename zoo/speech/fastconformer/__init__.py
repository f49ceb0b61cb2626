"""FastConformer: a streaming recogniser of speech with four look-aheads in one set of weights."""

NAMES = ("fastconformer-*",)
