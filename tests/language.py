"""Numbers of the official codes of streaming video-language systems."""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDENS = Path(__file__).parents[2] / "shared/goldens/language"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")


def golden(name):
    """(arrays, what its maker says of it)."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        z = dict(file)
    return z, json.loads(str(z.pop("meta")))


def case(z, name):
    """The arrays ``name/...``, without that."""
    return {k[len(name) + 1 :]: v for k, v in z.items() if k.startswith(name + "/")}


def dense(z, name):
    """A torch.nn.Linear -> the parameters of a Dense."""
    bias = {"bias": z[f"{name}.bias"]} if f"{name}.bias" in z else {}
    return {"kernel": z[f"{name}.weight"].T, **bias}


def norm(z, name):
    """A torch.nn.LayerNorm -> the parameters of ours."""
    return {"scale": z[f"{name}.weight"], "bias": z[f"{name}.bias"]}
