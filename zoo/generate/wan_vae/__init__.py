"""Wan 2.1's autoencoder of video: causal, so that latents become frames as they come."""

NAMES = ("wan-vae",)
