"""Which runtime computes in which precision, and what this processor has for it."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from pathlib import Path
from typing import Any

from ..layers.install import how_to_install
from ..zoo.registry import Card
from ..zoo.traits import in_dtype

# weights on so many bits in groups, activations as they are; names as of zoo.compress
GROUPED = {"w8a16-g32": (8, 32), **{f"w4a16-g{n}": (4, n) for n in (32, 64, 128)}}
# runtime -> precisions that it takes
TAKES = {
    "jax": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8", *GROUPED),
    "openvino": ("fp32", "bf16", "int8", *GROUPED),
}
PRECISIONS = tuple(sorted({name for names in TAKES.values() for name in names}))
# instructions that make a precision faster than fp32, by their names in /proc/cpuinfo
FAST = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16", "svebf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"},
}


class RuntimeRefused(ValueError):
    """A runtime, or a precision, that cannot be had here or for this model."""


def in_groups(precision: str) -> tuple[int, int] | None:
    """(bits, weights in a group) of a precision whose weights alone are narrow."""
    return GROUPED.get(precision)


@functools.cache
def processor() -> frozenset[str]:
    """Flags of this machine's processor; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    rows = [line.partition(":") for line in text.splitlines()]
    return frozenset(
        flag for name, _, value in rows if name.strip() in ("flags", "Features")
        for flag in value.split()
    )  # fmt: skip


def check(runtime: str, precision: str | None) -> str:
    """The precision, fp32 for None.

    Raises:
      RuntimeRefused: an unknown or missing runtime, a precision that it does not take, or one for
        which this processor has no instructions and the runtime would quietly take another.
    """
    if runtime not in TAKES:
        raise RuntimeRefused(f"runtime {runtime!r}: choose from {', '.join(TAKES)}")
    wanted = precision or "fp32"
    able = [name for name, takes in TAKES.items() if wanted in takes]
    if not able:
        raise RuntimeRefused(f"precision {wanted!r}: choose from {', '.join(PRECISIONS)}")
    if wanted not in TAKES[runtime]:
        raise RuntimeRefused(
            f"precision {wanted} in {runtime}: it takes {', '.join(TAKES[runtime])} here; "
            f"{wanted} is taken by {', '.join(able)}"
        )
    if runtime != "jax":
        for module in ("onnx", runtime):
            if importlib.util.find_spec(module) is None:
                raise RuntimeRefused(f"runtime {runtime} needs {module}: {how_to_install(runtime)}")
        lacking = wanted in FAST and not FAST[wanted] & processor()
        if lacking and wanted == "bf16":
            raise RuntimeRefused(
                "precision bf16: this processor has none of "
                f"{', '.join(sorted(FAST['bf16']))}, and {runtime} would compute in fp32 without"
                " saying so; take fp32, or int8"
            )
        if lacking:
            warnings.warn(
                f"precision {wanted}: this processor has none of {', '.join(sorted(FAST[wanted]))};"
                " the model is smaller, and no faster than in fp32",
                stacklevel=3,
            )
    return wanted


def in_precision(model: Any, card: Card, precision: str) -> Any:
    """The module that computes in this precision. Raises RuntimeRefused where it has no choice."""
    if precision == "fp32":
        return model
    found = in_dtype(model, "bfloat16")
    if found is None:
        raise RuntimeRefused(
            f"{card.name} has no compute type to choose, so no {precision} in JAX; runtime openvino"
            " has bf16 for every model"
        )
    return found
