"""8-bit and pruned weights: the bounds that are promised, against brute force and torch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.zoo import int8, pruning
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.files import save_int8
from streamzoo.zoo.trees import flatten, nest


def kernel(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.lognormal(size=shape[-1])).astype(np.float32)


@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5), (3, 3, 4, 6)])
def test_every_weight_is_the_nearest_of_the_255_steps(shape):
    w = kernel(*shape)
    w.reshape(-1, shape[-1])[:, 2] = 0  # a dead channel
    steps, scale = int8.quantise(w)
    back = int8.dequantise(steps, scale)
    assert steps.dtype == np.int8 and steps.shape == w.shape and abs(steps).max() == 127
    assert (np.abs(back - w) <= scale / 2 * (1 + 1e-5)).all()
    grid = np.arange(-127, 128)[:, None] * np.broadcast_to(scale, w.shape).reshape(1, -1)
    nearest = np.abs(grid - w.reshape(1, -1)).min(axis=0)
    slack = np.broadcast_to(scale, w.shape).ravel() * 1e-4  # float32 of up to 127 steps
    assert (np.abs(back - w).ravel() <= nearest + slack).all()
    # one scale per output channel, and per layer where layers are stacked
    largest = np.abs(w).max(axis=1 if w.ndim == 3 else tuple(range(w.ndim - 1)))
    np.testing.assert_allclose(scale.reshape(largest.shape), largest / 127, rtol=1e-6)


def test_the_rounding_is_torchs_fake_quantisation():
    torch = pytest.importorskip("torch")
    w = kernel(16, 6)
    steps, scale = int8.quantise(w)
    want = torch.fake_quantize_per_channel_affine(
        torch.tensor(w), torch.tensor(scale[0]), torch.zeros(6, dtype=torch.int32), 1, -127, 127
    )
    np.testing.assert_allclose(int8.dequantise(steps, scale), want.numpy(), rtol=1e-6)


def test_a_weight_that_is_not_finite_has_no_8_bit_form():
    with pytest.raises(WeightsError, match="not finite"):
        int8.quantise(np.asarray([[1.0, np.nan]]))


def variables():
    flat = {
        "a/kernel": kernel(64, 48),
        "a/bias": kernel(48),
        "b/depth_kernel": kernel(3, 3, 1, 32),
        "norm/scale": kernel(48),
        "pos_embed": kernel(9, 48),
    }
    return nest(flat)


def test_a_file_of_8_bits_is_read_like_any_other(tmp_path):
    tree = variables()
    whole, small = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    zoo.save(whole, tree)
    save_int8(small, tree, {"note": "kept"})
    assert zoo.files.read_metadata(small)["note"] == "kept"
    got, want = flatten(zoo.load_weights(small)), flatten(int8.int8(tree))
    assert got.keys() == want.keys() == flatten(tree).keys()
    for name, leaf in want.items():
        np.testing.assert_array_equal(got[name], leaf)
    for name in ("a/bias", "norm/scale", "pos_embed"):
        np.testing.assert_array_equal(got[name], flatten(tree)[name])
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    zoo.load_weights(small, template=template)
    with pytest.raises(WeightsError, match="scale of 'c/kernel', which is not in the file"):
        int8.unpack({"c/kernel_int8_scale": np.ones(3)})


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.3, 0.999])
def test_exactly_the_smallest_part_of_every_kernel_goes(fraction):
    tree = variables()
    before, after = flatten(tree), flatten(pruning.prune(tree, fraction))
    for name, w in before.items():
        pruned = after[name]
        if not name.endswith("kernel"):
            np.testing.assert_array_equal(pruned, w)
            continue
        gone = pruned == 0
        assert gone.sum() == int(fraction * w.size)
        np.testing.assert_array_equal(pruned[~gone], w[~gone])
        if gone.any():
            assert np.abs(w[gone]).max() <= np.abs(w[~gone]).min()


def test_equal_weights_are_pruned_in_order_and_wrong_parts_refused():
    np.testing.assert_array_equal(
        pruning.smallest(np.ones((2, 3)), 0.5), [[False, False, False], [True, True, True]]
    )
    with pytest.raises(ValueError, match="fraction 1.0"):
        pruning.smallest(np.ones((2, 3)), 1.0)
