"""The image towers of SigLIP and SigLIP 2."""

NAMES = ("siglip-*", "siglip2-*")
