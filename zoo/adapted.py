"""Weights that are another name's but for a change of low rank: a hundredth of the bytes.

The file has ``encoder_0/attn/qkv/a_kernel`` [D, r] and ``b_kernel`` [r, O] for every matrix
``encoder_0/attn/qkv/kernel`` [D, O] that differs by their product; its header's ``adapts`` names
those weights. The factors are 8-bit codes (``int8``). ``train/low_rank.py`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..layers import lora
from ..layers.streaming import Params
from .errors import WeightsError

A, B = "/a_kernel", "/b_kernel"


def adapted(base: Params, flat: Mapping[str, Any], path: Path) -> Params:
    """``base``, changed by the factors of a file.

    Raises:
      WeightsError: a factor without its other, or of another model.
    """
    pairs: dict[str, dict[str, Any]] = {}
    for name in flat:
        matrix = name.removesuffix(A).removesuffix(B)
        try:
            pairs[matrix] = {"a": flat[matrix + A], "b": flat[matrix + B]}
        except KeyError as missing:
            raise WeightsError(f"{path}: {name} is there, {missing} is not") from None
    try:
        return {"params": lora.merged(base["params"], pairs)}
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: {error}") from None
