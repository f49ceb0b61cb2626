"""Marigold's path: depth is drawn in the latents of an autoencoder of pictures."""

NAMES = ("marigold-*",)
