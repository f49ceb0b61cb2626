"""The table of block sizes: every operation reads it, and cuts a line to the shapes it meets."""

import jax
import numpy as np
import pytest

from streamzoo.layers.kernels import blocks
from streamzoo.layers.kernels.gated_delta import pallas_generic as gated_delta
from streamzoo.layers.kernels.linear_scan import pallas_generic as linear_scan

from . import table, targets

# Lines that divide little and fit nothing: (line of the table, the zoo's shape that it is for).
AWKWARD = [
    (("ring_attention", "tpu", "position"), {"rows": 48, "bytes": 70_000}, "vit-b position"),
    (("ssd", "tpu", ""), {"rows": 3, "lanes": 128}, None),
    (("gated_delta", "tpu", "clip"), {"rows": 3, "heads": 5, "chunks": 1}, None),
    (("gated_delta", "tpu", "step"), {"rows": 3, "heads": 5}, None),
    (("linear_scan", "tpu", "plain"), {"frames": 13, "channels": 300}, None),
    (("linear_scan", "tpu", "rows"), {"frames": 5, "rows": 20, "channels": 200}, None),
    (("block_attention", "tpu", ""), {"keys": 72}, None),
]


def of_class(op, kind):
    """Names of the zoo's shapes of this operation that a kernel of this class serves."""
    for name, (first, *_), _ in table.OPS[op][1]():
        if (op, name) in table.PLAIN:
            continue
        steps = None if isinstance(first, dict) else first.shape[1]
        found = {"clip": steps != 1, "step": steps == 1}.get(kind, True)
        if op == "linear_scan":
            found = (len(first.shape) > 3) == (kind == "rows")
        if found:
            yield name


@pytest.mark.parametrize("line, sizes, name", AWKWARD, ids=["-".join(a[0]) for a in AWKWARD])
def test_a_line_reaches_the_kernel_and_is_cut_to_the_shape(line, sizes, name, monkeypatch):
    op, _, kind = line
    names = [name] if name else list(of_class(op, kind))[:2]
    assert names
    for name in names:
        lowered = [targets.lowered("v5e", *table.case(op, name))]
        with monkeypatch.context() as patch:
            patch.setitem(blocks.TABLE, line, sizes)
            jax.clear_caches()
            lowered.append(targets.lowered("v5e", *table.case(op, name)))
        jax.clear_caches()
        assert "tpu_custom_call" in lowered[1], name
        assert lowered[0] != lowered[1], name


def test_a_chip_s_own_line_wins(monkeypatch):
    monkeypatch.setattr(blocks, "chip", lambda platform: "TPU v9")
    monkeypatch.setitem(blocks.TABLE, ("ssd", "TPU v9", ""), {"rows": 16})
    want = {**blocks.TABLE["ssd", "tpu", ""], "rows": 16}
    assert blocks.blocks_for("ssd", "tpu") == want
    assert blocks.blocks_for("ssd", "tpu", "", {"rows": 2}) == {**want, "rows": 2}
    with pytest.raises(ValueError, match=r"no block size \['row'\]; there are \['lanes', 'rows'\]"):
        blocks.blocks_for("ssd", "tpu", "", {"row": 2})


@pytest.mark.parametrize("seed", range(20))
def test_any_line_gives_blocks_that_a_chip_can_hold(seed, monkeypatch):
    """Random lines and shapes: on a TPU tiles of 8 x 128 or whole axes, in so many bytes; on a GPU
    powers of two that divide the axis."""
    rng = np.random.default_rng(seed)
    pick = lambda *choices: int(rng.choice(choices))
    for line, sizes in list(blocks.TABLE.items()):
        monkeypatch.setitem(blocks.TABLE, line, {name: pick(1, 3, 8, 50, 999) for name in sizes})
    steps, channels = pick(2, 7, 64, 300), pick(32, 128, 384, 1280, 2560)
    rows = pick(1, 5, 197, 784)
    for high in (None, rows):
        block = linear_scan.tpu_blocks(steps, high, channels)
        assert block.channels == channels or block.channels % 128 == 0
        sublanes, whole = (block.frames, steps) if high is None else (block.rows, rows)
        assert sublanes == whole or sublanes % 8 == 0
        block = linear_scan.gpu_blocks(steps, high, channels)
        for size, axis in ((block.channels, channels), (block.rows, high or 1)):
            assert axis % size == 0 and size & (size - 1) == 0
    streams, heads, dk, dv = pick(1, 3, 64), pick(1, 6, 12, 16), pick(32, 64, 128), pick(64, 128)
    for chunk, count in ((1, 1), (64, pick(1, 4, 99))):
        b = gated_delta.tpu_blocks(streams, heads, dk, dv, chunk, count)
        assert heads % b.heads == 0 and 1 <= b.rows <= streams and 1 <= b.chunks <= count
        tiled = b.heads % 8 == 0 if chunk == 1 else b.heads * dk % 128 == b.heads * dv % 128 == 0
        assert b.heads == heads or tiled
        b = gated_delta.gpu_blocks(streams, heads, dk, dv, chunk, count)
        assert streams % b.rows == heads % b.heads == 0 and b.chunks == count
        assert b.rows & (b.rows - 1) == b.heads & (b.heads - 1) == 0
