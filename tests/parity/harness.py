"""Parity with reference implementations: one row per model, one check for all of them.

A row builds the reference at a tiny random size, saves it as its project publishes checkpoints,
reads that file with our converter and compares every named intermediate and the output. torch and
transformers are imported inside ``build`` and ``compare`` only: collecting the rows costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .shim import mend_torchvision

Pairs = Mapping[str, tuple[Any, Any]]


def save_pretrained(reference: Any, folder: Path) -> None:
    """transformers' own writer: the published layout, which is not that of ``state_dict()``."""
    reference.save_pretrained(folder)


def convert_folder(folder: Path) -> tuple[Any, Any]:
    """The checkpoint in a folder -> (our module, its variables), by the registered converters."""
    from streamzoo.zoo.convert import convert_checkpoint
    from streamzoo.zoo.registry import create_model

    plan, variables = convert_checkpoint(folder)
    return create_model(plan.model, **plan.overrides), variables


@dataclass(frozen=True)
class Row:
    """One line of the parity table.

    name:      our model's name, as registered
    reference: "package Class" it is compared with
    build:     -> reference module, random and lively (see :func:`lively`), in evaluation mode
    compare:   (reference, our module, our variables) -> name -> (ours, theirs), arrays of one shape
    frames:    frames that were streamed, 1 for a stateless model
    tolerance: of max |ours - theirs| / std(theirs), fp32
    save:      (reference, folder) -> None, in the layout the checkpoints are published in
    convert:   folder -> (our module, our variables)
    """

    name: str
    reference: str
    build: Callable[[], Any]
    compare: Callable[[Any, Any, Any], Pairs]
    frames: int = 1
    tolerance: float = 1e-4
    save: Callable[[Any, Path], None] = save_pretrained
    convert: Callable[[Path], tuple[Any, Any]] = convert_folder


@dataclass(frozen=True)
class Gap:
    """How far one array is from the reference's."""

    name: str
    shape: tuple[int, ...]
    absolute: float
    std: float

    @property
    def relative(self) -> float:
        return self.absolute / self.std if self.std else float("inf")


def measure(row: Row, folder: Path) -> list[Gap]:
    """The gaps of a row. Raises AssertionError for arrays of different shapes or with NaN."""
    import torch

    torch.manual_seed(0)
    mend_torchvision()
    start = time.monotonic()
    with torch.no_grad():
        reference = row.build()
        row.save(reference, folder)
        module, variables = row.convert(folder)
        pairs = row.compare(reference, module, variables)
    gaps = [_gap(name, *map(_array, pair)) for name, pair in pairs.items()]
    worst = max(gaps, key=lambda g: g.relative)
    print(
        f"{row.name}: {len(gaps)} arrays, worst {worst.name} {worst.absolute:.1e} absolute,"
        f" {worst.relative:.1e} relative, {time.monotonic() - start:.0f} s"
    )
    return gaps


def check(row: Row, gaps: list[Gap]) -> None:
    """Raises AssertionError for a gap beyond the tolerance, or a reference that is all but
    constant, with which anything would agree."""
    assert gaps, f"{row.name}: nothing was compared"
    for gap in gaps:
        assert gap.std > 1e-3, f"{row.name}: {gap.name} of the reference has std {gap.std:.1e}"
    bad = [f"{g.name} {list(g.shape)} {g.relative:.1e}" for g in gaps if g.relative > row.tolerance]
    assert not bad, f"{row.name} beyond {row.tolerance:g} of std: " + ", ".join(bad)


def _array(value: Any) -> np.ndarray:
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    return np.asarray(value, np.float64)


def _gap(name: str, ours: np.ndarray, theirs: np.ndarray) -> Gap:
    assert ours.shape == theirs.shape, f"{name}: ours {ours.shape}, theirs {theirs.shape}"
    assert np.isfinite(ours).all() and np.isfinite(theirs).all(), f"{name}: not finite"
    return Gap(name, ours.shape, float(np.abs(ours - theirs).max()), float(theirs.std()))


# --- for the rows ----------------------------------------------------------------------------


def lively(model: Any, seed: int = 0, scale: float = 3.0) -> Any:
    """The torch module with weights that matter, in evaluation mode.

    Fresh ones are so small, and biases, gains and embeddings so often zero or one, that a model
    with a layer left out would pass. Matrices are scaled; all else is moved off its initial value,
    statistics of batch norms included.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def noise(like):
        return torch.randn(like.shape, generator=generator).to(like)

    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            if parameter.ndim > 1 and parameter.numel() > 1 and float(parameter.std()) > 1e-6:
                parameter.mul_(scale)
            else:
                parameter.add_(0.2 * noise(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.2 * noise(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(torch.exp(0.3 * noise(buffer)))
    return model.eval()


def images(
    height: int, width: int, *, batch: int = 2, frames: int | None = None, seed: int = 0
) -> np.ndarray:
    """Normal noise [B, H, W, 3], or [B, T, H, W, 3]."""
    lead = (batch,) if frames is None else (batch, frames)
    shape = (*lead, height, width, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to_torch(frames: np.ndarray) -> Any:
    """[..., H, W, 3] -> torch [..., 3, H, W]."""
    import torch

    return torch.from_numpy(np.moveaxis(frames, -1, -3).copy())


def run(module: Any, variables: Any, *inputs: Any, method: Any = None, **static: Any) -> Any:
    """``module.apply`` compiled as a whole: far quicker on a CPU than one operation at a time."""
    import jax

    def apply(v, x):
        return module.apply(v, *x, method=method, **static)

    return jax.jit(apply)(variables, inputs)
