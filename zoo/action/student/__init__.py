"""Causal students: a ViT with a memory over time."""

NAMES = (
    *("vit-*", "tsa-*", "dsta-*", "rglru-*", "conv-*", "swa-*", "gdn-*", "hybrid-*"),
    *("nsa-*", "knn-*", "qwennext-*", "qwennextmoe-*", "jamba-*", "nemotronh-*"),
)
