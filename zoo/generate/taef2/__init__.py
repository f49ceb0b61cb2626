"""TAEF2: a tiny autoencoder for the latents of FLUX.2, one picture at a time."""

NAMES = ("taef2",)
