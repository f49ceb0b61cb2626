"""A step's program in another runtime, called as the compiled step of JAX is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ...layers.streaming import Params
from ...zoo.registry import Card
from ...zoo.resolve import home
from ..precision import RuntimeRefused
from . import onnx_program, quantised
from .loop import OPEN
from .onnx_graph import OPSET, UnsupportedOperation
from .traced import Traced, trace

FORM = 3  # of what is kept on disk: another number for another lowering


def build(
    runtime: str, precision: str, model: Any, params: Params, card: Card, args: tuple
) -> Converted:
    """(params, carry, frames, valid, extras) -> (new carry, output), all jax arrays.

    Converted models are kept in ``$STREAMZOO_HOME/exported``, by what they compute.

    Raises:
      RuntimeRefused: the model has an operation that the runtime's format lacks.
    """
    traced = trace(model, params, card, *args)
    names = [x.name for x in traced.inputs], [x.name for x in traced.outputs]
    kept = _place(traced, runtime, precision)
    if not kept.is_file():
        try:
            made = onnx_program.model(traced.program, *names, card.name)
            made = quantised.quantised(made, precision, runtime)
        except UnsupportedOperation as error:
            raise RuntimeRefused(
                f"{card.name} in {runtime}: {error}; runtime jax takes every model"
            ) from None
        except ValueError as error:
            raise RuntimeRefused(f"{card.name} in {runtime}: {error}") from None
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(made.SerializeToString())
        part.replace(kept)
    return Converted(OPEN[runtime](str(kept), precision), traced, kept.stat().st_size)


class Converted:
    """A program in another runtime; ``bytes`` of its file."""

    def __init__(self, run: Callable[[dict], dict], traced: Traced, size: int):
        self._run, self._traced, self.bytes = run, traced, size
        self._outside = [onnx_program.border(x.dtype) for x in traced.inputs]

    def __call__(self, params: Params, *args: Any) -> Any:
        """(carry, frames, valid, extras) -> (new carry, output)."""
        del params  # among the program's constants
        arrays, traced = jax.tree.leaves(args), self._traced
        given = {
            leaf.name: np.asarray(a).astype(dtype, copy=False)
            for leaf, a, dtype in zip(traced.inputs, arrays, self._outside, strict=True)
        }
        found = self._run(given)
        out = [
            jax.device_put(np.asarray(found[leaf.name]).astype(leaf.dtype, copy=False))
            for leaf in traced.outputs
        ]
        return jax.tree.unflatten(traced.answer, out)


def _place(traced: Traced, runtime: str, precision: str) -> Path:
    """The file of this program: named by its text, its constants and the converter."""
    digest = hashlib.sha256(f"{FORM} {OPSET} {precision} {traced.inputs}".encode())
    digest.update(f"{traced.outputs} {traced.program.jaxpr}".encode())
    for a in traced.program.consts:
        digest.update(np.ascontiguousarray(np.asarray(a)).tobytes())
    tag = "float" if precision in ("fp32", "bf16") else f"{precision}.{runtime}"
    return home() / "exported" / f"{digest.hexdigest()[:32]}.{tag}.onnx"
