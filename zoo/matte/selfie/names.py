"""The selfie mask by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import Selfie, SelfieConfig

register(
    "selfie-lite",
    Selfie,
    SelfieConfig(),
    Card(
        "selfie-lite",
        summary="which pixels are a person close to the camera, 0.1 M parameters",
        paper="MediaPipe Selfie Segmentation; MobileNetV3 (arXiv 1905.02244)",
        input_size=(256, 256),
        mean=(0.0, 0.0, 0.0),  # frames come as 0 to 1
        std=(1.0, 1.0, 1.0),
        classes=("person",),
    ),
)
