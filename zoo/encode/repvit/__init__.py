"""RepViT."""

NAMES = ("repvit-*",)
