"""A kernel that is kept as codes, in the place of the array in the tree of parameters.

Flax unboxes it where a module asks for it (``nn.Module.param``), inside a scan over depth too: what
is read from memory is the codes of one layer, and floats are made where they are used.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from ..streaming import AnyArray, Array
from . import integers, nvfp4, packing, paretoq, w8a8


@dataclass(frozen=True)
class Scheme:
    """How one kernel is kept.

    Attributes:
      name: as in files and on the command line.
      bits: of a weight.
      group: inputs that share a scale; None: all of an output channel.
      form: ``integers``, ``nvfp4`` or ``paretoq``.
      activations: bits of the input of dense layers, multiplied as integers; None: floats.
    """

    name: str
    bits: float
    group: int | None = None
    form: str = "integers"
    activations: int | None = None

    @property
    def stored(self) -> int:
        """Bits of a code."""
        return {1.58: 2}.get(self.bits, int(self.bits))


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", 8),
        Scheme("w8a8", 8, activations=8),
        *(Scheme(f"w4a16-g{n}", 4, n) for n in (32, 64, 128)),
        *(Scheme(f"w{b}a16-g32", b, 32) for b in (2, 3)),
        Scheme("nvfp4", 4, nvfp4.BLOCK, "nvfp4"),
        *(Scheme(f"paretoq-{b}", b, form="paretoq") for b in paretoq.BITS),
    )
}
ORDER = ("codes", "scale", "zero", "whole")
_products: contextvars.ContextVar[bool] = contextvars.ContextVar("products", default=False)


@contextlib.contextmanager
def products_follow() -> Iterator[None]:
    """Within it, layers take what :attr:`Quantised.online` asks for into account."""
    token = _products.set(True)
    try:
        yield
    finally:
        _products.reset(token)


class Quantised(meta.AxisMetadata):
    """Codes [*lead, K, O] (fewer bits than 8: words along K) with a scale for every group of K.

    Attributes:
      parts: ``codes``, ``scale`` [*lead, K / group, O], of asymmetric ones ``zero`` as ``scale``,
        of NVFP4 ``whole`` [*lead].
      scheme: how to read them.
      inner: the kernel's shape without the layers it is stacked over; its product but for the last
        is K.
      turned: the input comes as ``hadamard.transform(x)``; the layer has to see to that.
    """

    def __init__(
        self, parts: dict[str, Any], scheme: Scheme, inner: tuple[int, ...], turned: bool = False
    ):
        self.parts, self.scheme, self.inner, self.turned = parts, scheme, tuple(inner), turned

    @property
    def online(self) -> bool:
        """True if the layer does more than multiply by the unboxed kernel (``running.runs``)."""
        return self.turned or (self.scheme.activations is not None and len(self.inner) == 2)

    @property
    def rows(self) -> int:
        return int(np.prod(self.inner[:-1]))

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.parts["codes"].shape[:-2], *self.inner)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def codes(self) -> Array:
        """Signed int8 codes [*lead, K, O]."""
        codes = self.parts["codes"]
        if self.scheme.stored == 8:
            return codes
        return packing.unpack(codes, self.scheme.stored, self.rows, axis=-2)

    def dequantised(self) -> Array:
        """The fp32 kernel, of ``shape``."""
        if self.scheme.form == "nvfp4":
            turn = lambda a: jnp.swapaxes(a, -1, -2)
            whole = self.parts["whole"][..., None, None]
            packed = nvfp4.NVFP4(turn(self.parts["codes"]), turn(self.parts["scale"]), whole)
            return turn(nvfp4.dequantise(packed)).reshape(self.shape)
        codes, scale = self.codes(), self.parts["scale"]
        lead, groups, width = scale.shape[:-2], *scale.shape[-2:]
        values = codes.reshape(*lead, groups, -1, width).astype(jnp.float32)
        if "zero" in self.parts:
            values = values - self.parts["zero"][..., None, :]
        return (values * scale[..., None, :]).reshape(self.shape)

    def unbox(self) -> Array:
        if self.online and not _products.get():
            raise ValueError(
                f"a kernel of {self.scheme.name} needs the model that compress() or load() gave"
                " with it, which treats the inputs of its layers; this one is plain"
            )
        return self.dequantised()

    def replace_boxed(self, val: Any) -> Any:
        return val

    def add_axis(self, index: int, params: dict[Any, Any]) -> Quantised:
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> Quantised:
        return self

    def __repr__(self) -> str:
        return f"Quantised({self.scheme.name}, {list(self.shape)}, {self.nbytes} bytes)"


def _flatten(box: Quantised):
    names = tuple(name for name in ORDER if name in box.parts)
    children = [(jax.tree_util.DictKey(name), box.parts[name]) for name in names]
    return children, (names, box.scheme, box.inner, box.turned)


def _unflatten(told, children) -> Quantised:
    names, scheme, inner, turned = told
    return Quantised(dict(zip(names, children, strict=True)), scheme, inner, turned)


jax.tree_util.register_pytree_with_keys(Quantised, _flatten, _unflatten)


def fitting(scheme: Scheme, kernel: AnyArray) -> Scheme:
    """The scheme, or where its groups do not divide the kernel's inputs, int8 per channel."""
    rows = int(np.prod(inner_shape(kernel)[:-1]))
    return scheme if scheme.group is None or rows % scheme.group == 0 else SCHEMES["int8"]


def inner_shape(kernel: AnyArray) -> tuple[int, ...]:
    # kernels [in, out] and [k, k, in, out]; three axes are layers stacked over depth [L, in, out]
    return tuple(np.shape(kernel)[1:] if np.ndim(kernel) == 3 else np.shape(kernel))


def expected_shapes(
    scheme: Scheme, inner: tuple[int, ...], lead: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Shape of every part of a kernel that is stacked over ``lead``."""
    rows, width = int(np.prod(inner[:-1])), inner[-1]
    groups = 1 if scheme.group is None else rows // scheme.group
    if scheme.form == "nvfp4":
        return {"codes": (*lead, rows // 2, width), "scale": (*lead, groups, width), "whole": lead}
    length = rows if scheme.stored == 8 else packing.words(rows, scheme.stored)
    scale = (*lead, groups, width)
    return {"codes": (*lead, length, width), "scale": scale, "zero": scale}


def box(kernel: AnyArray, scheme: Scheme, *, alpha: Any = None, turned: bool = False) -> Quantised:
    """A kernel [K, O], [L, K, O] or [k, k, I, O] as codes, on the host.

    Args:
      alpha: of a ``paretoq`` scheme, as it was learned; default: as training would begin.

    Raises:
      ValueError: a weight that is not finite; groups that do not divide K; a zero in 1 bit.
    """
    kernel = np.asarray(kernel, np.float32)
    if not np.isfinite(kernel).all():
        raise ValueError(f"a kernel with a weight that is not finite has no {scheme.name} form")
    inner = inner_shape(kernel)
    rows = int(np.prod(inner[:-1]))
    flat = kernel.reshape(*kernel.shape[: kernel.ndim - len(inner)], rows, inner[-1])
    across: Any = np.ascontiguousarray(flat.swapaxes(-1, -2))  # [*lead, O, K]
    if scheme.form == "nvfp4":
        return Quantised(_nvfp4(across), scheme, inner, turned)
    if scheme.form == "paretoq":
        codes, scale, zero = _paretoq(across, scheme.bits, alpha)
    elif scheme.bits == 8:
        # of absmax / 127 like the int8 of the other runtimes, so that integers are symmetric
        rows8 = w8a8.LEVELS
        scale = np.abs(across).max(-1, keepdims=True) / np.float32(rows8)
        codes = np.rint(across / np.where(scale > 0, scale, np.float32(1)))
        codes, zero = np.clip(codes, -rows8, rows8).astype(np.int8), None
    else:
        found = integers.quantise(across, int(scheme.bits), group=scheme.group)
        codes, scale, zero = found.codes, found.scale, None

    def back(a: Any) -> Any:
        return np.ascontiguousarray(np.asarray(a).swapaxes(-1, -2))

    codes = back(codes)
    if scheme.stored < 8:
        codes = np.asarray(packing.pack(codes, scheme.stored, axis=-2))
    parts = {"codes": codes, "scale": back(scale)}
    if zero is not None:
        parts["zero"] = back(zero)
    return Quantised(parts, scheme, inner, turned)


def _paretoq(across: Any, bits: float, alpha: Any):
    """(codes, scale, zero) [..., O, K] of what ``paretoq.fake_quantise`` gives."""
    if bits == 1 and not across.all():
        raise ValueError("a weight of exactly 0 has no sign for paretoq-1; paretoq-1.58 has a 0")
    if alpha is None:
        alpha = paretoq.first_alpha(across, bits, axis=-1)
    else:
        alpha = np.asarray(alpha, np.float32).swapaxes(-1, -2)
    alpha = np.maximum(np.asarray(alpha, np.float32), np.float32(paretoq.LEAST))
    levels = np.asarray(paretoq.levels(jnp.asarray(across), jnp.asarray(alpha), bits), np.float32)
    steps, shift = {1: (0.5, 0.5), 1.58: (1.5, 0.0), 2: (2.0, 0.5)}.get(bits, (1.0, 0.0))
    codes = np.rint(levels * steps - shift).astype(np.int8)
    scale = np.broadcast_to(alpha / np.float32(steps), (*across.shape[:-1], 1)).copy()
    return codes, scale, np.full_like(scale, -shift) if shift else None


def _nvfp4(across: np.ndarray) -> dict[str, np.ndarray]:
    lead = across.shape[:-2]
    packed = [nvfp4.quantise(jnp.asarray(one)) for one in across.reshape(-1, *across.shape[-2:])]
    gather = lambda name: np.stack([np.asarray(getattr(one, name)) for one in packed])
    join = lambda a: np.ascontiguousarray(a.swapaxes(-1, -2)).reshape(*lead, *a.shape[:0:-1])
    whole = gather("whole").reshape(lead)
    return {"codes": join(gather("codes")), "scale": join(gather("scale")), "whole": whole}
