"""How far apart two arrays may be."""

import numpy as np


def close(name, got, want, tolerance):
    """Asserts the largest difference, relative to max(1, the largest value wanted); prints it."""
    want = np.asarray(want, np.float64)
    error = np.abs(np.asarray(got, np.float64) - want).max() / max(1.0, np.abs(want).max())
    print(f"{name}: max relative difference {error:.1e}")
    assert error <= tolerance, name
