"""Texts as vectors: MiniLM, a small BERT, as sentence-transformers publishes it."""

NAMES = ("minilm-*",)
