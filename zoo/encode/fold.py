"""Batch norms folded into the convolutions and dense layers beside them, on torch tensors by name.

At inference a batch norm is a gain and an offset per channel: gain = weight / sqrt(var + eps),
offset = bias - mean * gain. Sums are done in fp64.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..convert import ConvertError

EPS = 1e-5  # torch's default
PARTS = ("weight", "bias", "running_mean", "running_var")


def norm_prefixes(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names of all batch norms: prefixes of a ``running_mean``, without the dot."""
    end = ".running_mean"
    return [key.removesuffix(end) for key in tensors if key.endswith(end)]


def take_norm(
    tensors: dict[str, np.ndarray], norm: str, eps: float = EPS
) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset) of the batch norm of a name, whose tensors are taken out of the dict.

    Raises ConvertError listing what is missing of it.
    """
    missing = [f"{norm}.{part}" for part in PARTS if f"{norm}.{part}" not in tensors]
    if missing:
        raise ConvertError(f"an incomplete batch norm: {', '.join(missing)} missing")
    weight, bias, mean, var = (
        np.asarray(tensors.pop(f"{norm}.{part}"), np.float64) for part in PARTS
    )
    tensors.pop(f"{norm}.num_batches_tracked", None)
    gain = weight / np.sqrt(var + eps)
    return gain, bias - mean * gain


def norm_after(
    tensors: dict[str, np.ndarray], conv: str, norm: str, target: str, eps: float = EPS
) -> None:
    """norm(conv(x)) -> one convolution ``target``: conv.weight [O, ...], conv.bias optional.

    Raises ConvertError for missing tensors.
    """
    gain, offset = take_norm(tensors, norm, eps)
    if f"{conv}.weight" not in tensors:
        raise ConvertError(f"batch norm {norm} has no convolution {conv}.weight")
    weight = np.asarray(tensors.pop(f"{conv}.weight"), np.float64)
    bias = np.asarray(tensors.pop(f"{conv}.bias", np.zeros(())), np.float64)
    tensors[f"{target}.weight"] = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
    tensors[f"{target}.bias"] = bias * gain + offset


def norm_before(
    tensors: dict[str, np.ndarray], norm: str, dense: str, target: str, eps: float = EPS
) -> None:
    """dense(norm(x)) -> one dense layer ``target``: dense.weight [O, I], dense.bias optional.

    Raises ConvertError for missing tensors.
    """
    gain, offset = take_norm(tensors, norm, eps)
    if f"{dense}.weight" not in tensors:
        raise ConvertError(f"batch norm {norm} has no dense layer {dense}.weight")
    weight = np.asarray(tensors.pop(f"{dense}.weight"), np.float64)
    bias = np.asarray(tensors.pop(f"{dense}.bias", np.zeros(())), np.float64)
    tensors[f"{target}.weight"] = weight * gain
    tensors[f"{target}.bias"] = weight @ offset + bias
