"""Two towers, of images and of texts: CLIP, SigLIP, SigLIP 2."""

NAMES = ("clip-dual-*", "siglip-dual-*", "siglip2-dual-*")
