"""Block sizes of the kernels: one small table, keyed by operation, chip and class of shapes.

A size of the table is what a kernel aims at: each operation cuts it to the shape and to what its
chip can hold. A caller overrides any of them with ``blocks={"rows": 64}``, which is taken as it
is; ``tests/bench/tune_kernels.py`` prints lines for the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jax.sharding import get_abstract_mesh

# (operation, chip kind or platform, shape class) -> block sizes. A chip's own line wins over its
# platform's; the class "" stands for all classes.
TABLE: dict[tuple[str, str, str], dict[str, int]] = {
    # rows: query tokens of one block; keys: key tokens per dot; bytes: of keys in one block
    ("ring_attention", "tpu", "frame"): {"rows": 256, "bytes": 1 << 20},
    ("ring_attention", "tpu", "position"): {"rows": 64, "bytes": 1 << 19},
    ("ring_attention", "cuda", "frame"): {"rows": 64, "keys": 32},
    ("ring_attention", "cuda", "position"): {"rows": 16},
    # rows: streams per program of a step; lanes: channels per program
    ("ssd", "tpu", ""): {"rows": 8, "lanes": 128},
    ("ssd", "cuda", ""): {"rows": 1, "lanes": 64},
    # rows: streams of one program; heads: of them at once; chunks: of frames in one block
    ("gated_delta", "tpu", "step"): {"rows": 8, "heads": 64},
    ("gated_delta", "tpu", "clip"): {"rows": 8, "heads": 1, "chunks": 64},
    ("gated_delta", "cuda", ""): {"rows": 1, "heads": 1},
    # frames, rows (axes between time and channels) and channels of one block
    ("linear_scan", "tpu", "plain"): {"frames": 256, "channels": 1 << 16},
    ("linear_scan", "tpu", "rows"): {"frames": 64, "rows": 1 << 16, "channels": 1024},
    ("linear_scan", "cuda", ""): {"rows": 1, "channels": 256},
    # keys: of the pages of one grid step (tpu), of one product (cuda); rows: queries of a program
    ("block_attention", "tpu", ""): {"keys": 128},
    ("block_attention", "cuda", ""): {"rows": 64, "keys": 64},
}


def power_of_two_divisor(n: int, most: int) -> int:
    """The largest power of two that divides n, at most ``most``: what Triton takes as a block."""
    if most == 1:  # also of a symbol, the batch of an export
        return 1
    return min(n & -n, 1 << (most.bit_length() - 1))


def chip(platform: str) -> str | None:
    """Kind of the chip that is traced for, e.g. ``"TPU v5 lite"``; None where it is not known."""
    device = getattr(get_abstract_mesh(), "abstract_device", None)
    if device is not None and device.platform == platform:
        return device.device_kind
    if jax.default_backend() in (platform, {"cuda": "gpu"}.get(platform)):
        return jax.local_devices()[0].device_kind
    return None


def blocks_for(
    op: str, platform: str, shapes: str = "", override: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Block sizes of ``op`` on ``platform`` ("tpu" or "cuda") for a class of shapes.

    Raises:
      ValueError: ``override`` names a size that the operation has on no platform.
    """
    sizes: dict[str, int] = {}
    for name in (platform, chip(platform)):
        for kind in ("", shapes):
            sizes.update(TABLE.get((op, name, kind), {}) if name else {})
    known = {size for (name, _, _), line in TABLE.items() if name == op for size in line}
    if unknown := set(override or {}) - known:
        raise ValueError(f"{op}: no block size {sorted(unknown)}; there are {sorted(known)}")
    return {**sizes, **(override or {})}
