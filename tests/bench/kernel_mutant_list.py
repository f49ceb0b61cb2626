"""Forty mistakes in kernels and in the glue around them: file of ``layers/``, text, mistake, tests.

Every text stands once in its file. ``kernel_mutants`` makes each mistake alone and runs the tests.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``old`` becomes ``new`` in ``layers/<file>``; ``tests``: files of ``tests/layers``."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(folder: str, *tests: str):
    def make(name: str, file: str, old: str, new: str) -> Mutant:
        return Mutant(name, f"{folder}/{file}", old, new, tests)

    return make


_delta = _of("kernels/gated_delta", "kernels/test_gated_delta_kernel.py")
_ring = _of("kernels/ring_attention", "kernels/test_ring_attention.py")
_block = _of("kernels/block_attention", "kernels/test_block_attention.py")
_ssd = _of("kernels/ssd", "kernels/test_ssd.py")
_scan = _of("kernels/linear_scan", "kernels/test_linear_scan.py")
_nsa = _of(".", "test_nsa.py")

MUTANTS = (
    # gated delta: the reference, the step, the step with streams in the lanes, the clip, the glue
    _delta(
        "decay left out of a chunk",
        "reference.py",
        "beta * scores[:, :size] * decay, 0.0",
        "beta * scores[:, :size], 0.0",
    ),
    _delta(
        "inverse of a chunk: sign",
        "reference.py",
        'between = -_dot("...ij',
        'between = _dot("...ij',
    ),
    _delta(
        "a forgotten state is multiplied by 0",
        "reference.py",
        "state = jnp.where(decay == 0, 0.0, decay * state)",
        "state = decay * state",
    ),
    _delta(
        "TPU step: sign of the correction",
        "pallas_tpu.py",
        "(v_ref[...] - read)",
        "(v_ref[...] + read)",
    ),
    _delta(
        "TPU step: sign of the decay",
        "pallas_tpu.py",
        "decay = jnp.exp(g_ref[...])",
        "decay = jnp.exp(-g_ref[...])",
    ),
    _delta("TPU step: scale of q", "pallas_tpu.py", "unroll=4) * dk**-0.5", "unroll=4)"),
    _delta(
        "TPU glue: sign of the state that is handed back",
        "pallas_tpu.py",
        "jnp.moveaxis(o, -1, 1), jnp.moveaxis(stack, -1, 2)",
        "jnp.moveaxis(o, -1, 1), -jnp.moveaxis(stack, -1, 2)",
    ),
    _delta(
        "step reads before it decays",
        "pallas_generic.py",
        "read = jnp.sum(k * state, axis=0",
        "read = jnp.sum(k * s_ref[row, head], axis=0",
    ),
    _delta(
        "clip: frames of the chunk decay once more",
        "pallas_generic.py",
        "lower, strict = i >= j, i > j\n    beta",
        "lower, strict = i >= j, i >= j\n    beta",
    ),
    _delta(
        "clip: the state is loaded in every part",
        "pallas_generic.py",
        "@pl.when(part == 0)",
        "@pl.when(part >= 0)",
    ),
    _delta(
        "glue: key heads tiled, not repeated",
        "__init__.py",
        "(jnp.repeat(x, v.shape[-2] // x.shape[-2], axis=-2) for x in (q, k))",
        "(jnp.tile(x, (v.shape[-2] // x.shape[-2], 1)) for x in (q, k))",
    ),
    _delta(
        "glue: a reset is left out",
        "__init__.py",
        "g = jnp.where(reset[..., None], RESET, g)",
        "g = jnp.where(reset[..., None], g, g)",
    ),
    # ring attention: the body, the TPU's sequential blocks, the launch
    _ring(
        "TPU: state set anew in every block",
        "pallas_tpu.py",
        "@pl.when(block == 0)",
        "@pl.when(block >= 0)",
    ),
    _ring(
        "TPU: slots of a block numbered from 0",
        "pallas_tpu.py",
        "walk(operands, state, block * plan.slots, plan",
        "walk(operands, state, 0 * block, plan",
    ),
    _ring(
        "TPU: answer written after the first block",
        "pallas_tpu.py",
        "@pl.when(block == pl.num_programs(4) - 1)",
        "@pl.when(block == 0)",
    ),
    _ring(
        "turned the wrong way",
        "pallas_generic.py",
        "jnp.cos(angle) + swapped",
        "jnp.cos(angle) - swapped",
    ),
    _ring(
        "keys of the future seen",
        "pallas_generic.py",
        "live = live & (gap >= 0)",
        "live = live & (gap > -9)",
    ),
    _ring(
        "sum not shrunk",
        "pallas_generic.py",
        "total = total * shrink + weights.sum",
        "total = total + weights.sum",
    ),
    _ring(
        "values not shrunk",
        "pallas_generic.py",
        "values[p] = values[p] * shrink + _dot",
        "values[p] = values[p] + _dot",
    ),
    _ring("low codes lose their sign", "pallas_generic.py", "((x << 28) >> 28)", "(x & 15)"),
    _ring(
        "scales of the values are those of the keys",
        "pallas_generic.py",
        "spread = jnp.where(live, weights * v_scale(p, h), 0.0)",
        "spread = jnp.where(live, weights * k_scale(p, h), 0.0)",
    ),
    _ring(
        "last part of the keys counted twice",
        "pallas_generic.py",
        "live = (column >= j * plan.part - at) &",
        "live = (column >= 0) &",
    ),
    _ring(
        "position: values not shrunk",
        "pallas_generic.py",
        "values[p] = values[p] * shrink + weights * jnp.where",
        "values[p] = values[p] + weights * jnp.where",
    ),
    # block attention
    _block(
        "window one too wide",
        "layout.py",
        "seen &= pos > now - window",
        "seen &= pos >= now - window",
    ),
    _block("future seen", "layout.py", "seen = exists & (pos <= now)", "seen = exists"),
    _block(
        "page -1 read as page 0",
        "layout.py",
        "exists = (pos >= 0) & page_valid",
        "exists = pos >= 0",
    ),
    _block(
        "NaN of keys that do not exist",
        "layout.py",
        "v = jnp.where(diagonal > 0, v.astype(jnp.float32), 0.0).astype(v.dtype)",
        "v = v + 0 * diagonal.astype(v.dtype)",
    ),
    _block(
        "accumulator not shrunk", "layout.py", "acc = acc * keep + jnp.dot", "acc = acc + jnp.dot"
    ),
    _block(
        "TPU: state set anew at every step", "pallas_tpu.py", "@pl.when(j == 0)", "@pl.when(j >= 0)"
    ),
    _block(
        "TPU: page lists of the heads mixed",
        "pallas_tpu.py",
        "* t.lists + t.page_list(h)",
        "* t.lists",
    ),
    _block(
        "TPU: a later call reads the first one's store",
        "pallas_tpu.py",
        "(begin + b, where(b, g, h, j, flat), t.lane_block(h))",
        "(b, where(b, g, h, j, flat), t.lane_block(h))",
    ),
    _block(
        "lanes of the other heads kept",
        "layout.py",
        "q = jnp.where(_own_lanes(t), q, jnp.zeros((), q.dtype))",
        "q = q + jnp.zeros_like(_own_lanes(t), q.dtype)",
    ),
    _block(
        "a page twice counts twice",
        "__init__.py",
        "return jnp.where(again, -1, pages)",
        "return pages",
    ),
    # state space duality and the diagonal recurrence
    _ssd(
        "step: no decay",
        "pallas_generic.py",
        "s = s_ref[row] * jnp.exp(g_ref[row])",
        "s = s_ref[row]",
    ),
    _ssd(
        "clip: the state decays by a chunk too little",
        "pallas_generic.py",
        "new = s * jnp.exp(jnp.sum(g, axis=0, keepdims=True))",
        "new = s",
    ),
    _ssd(
        "clip: frames see themselves decayed",
        "pallas_generic.py",
        "logs = dot(lower, jnp.where(row > col, own, 0.0))",
        "logs = dot(lower, jnp.where(row >= col, own, 0.0))",
    ),
    _scan(
        "no decay at an exact zero", "pallas_generic.py", "jnp.where(a == 0, 0.0, a * h)", "(a * h)"
    ),
    _scan(
        "the state is lost between segments",
        "pallas_generic.py",
        "@pl.when(segment == 0)",
        "@pl.when(segment >= 0)",
    ),
    _scan(
        "gradient of a: the state after, not before",
        "gradient.py",
        "(db * before).astype",
        "(db * h).astype",
    ),
    # native sparse attention
    _nsa("choice: the page before is not forced", "nsa.py", "+ 4.0 * first(number == own - 1)", ""),
)
