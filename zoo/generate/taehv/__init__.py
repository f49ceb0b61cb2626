"""TAEHV: a tiny autoencoder for the latents of video generators."""

NAMES = ("taehv",)
