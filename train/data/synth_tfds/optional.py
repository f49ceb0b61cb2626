"""tensorflow-datasets, which an extra brings."""

from __future__ import annotations

from typing import Any


def import_tfds() -> Any:
    """tensorflow-datasets, or an ImportError that says how to get it."""
    try:
        import tensorflow_datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "the records need tensorflow-datasets (not TensorFlow): pip install 'streamzoo[tfds]'"
        ) from None
    return tensorflow_datasets
