"""tensorflow-datasets, which an extra brings."""

from __future__ import annotations

from typing import Any

from ....layers.install import how_to_install


def import_tfds() -> Any:
    """tensorflow-datasets, or an ImportError that says how to get it."""
    try:
        import tensorflow_datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            f"the records need tensorflow-datasets (not TensorFlow): {how_to_install('tfds')}"
        ) from None
    return tensorflow_datasets
