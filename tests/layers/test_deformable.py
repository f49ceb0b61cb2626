"""Deformable attention: equal to torch's grid_sample, at the edges and beyond them."""

import jax
import numpy as np
import pytest

from streamzoo.layers.deformable import Deformable, read_points

from .compare import close

SIZES = [(5, 7), (3, 4), (1, 2)]


def drawn(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_torch(values, places, weights):
    """Level by level with torch's own sampler, as the published models do."""
    torch = pytest.importorskip("torch")
    heads, width = values.shape[2:]
    total, first = 0, 0
    for level, (h, w) in enumerate(SIZES):
        own = torch.from_numpy(values[:, first : first + h * w]).permute(0, 2, 3, 1)
        own = own.reshape(-1, width, h, w)
        at = torch.from_numpy(2 * places[:, :, :, level] - 1).permute(0, 2, 1, 3, 4).flatten(0, 1)
        found = torch.nn.functional.grid_sample(own, at, align_corners=False)  # [MH, Dh, Q, P]
        weight = torch.from_numpy(weights[:, :, :, level]).permute(0, 2, 1, 3).flatten(0, 1)
        total = total + (found * weight[:, None]).sum(-1)
        first += h * w
    return total.reshape(-1, heads, *total.shape[1:]).permute(0, 3, 1, 2).numpy()


def test_points_are_read_as_by_torch_inside_at_the_edge_and_outside():
    values, weights = drawn((2, 49, 3, 4)), drawn((2, 6, 3, 3, 2), 1)
    places = np.random.default_rng(2).uniform(-0.3, 1.3, (2, 6, 3, 3, 2, 2)).astype(np.float32)
    places[0, 0] = 0.0
    places[0, 1] = 1.0
    close(
        "read", read_points(values, SIZES, places, weights), by_torch(values, places, weights), 1e-5
    )


def test_boxes_and_points_reach_as_far_as_they_say():
    """With weights that are equal and values that are the places themselves."""
    layer = Deformable(dim=4, heads=2, levels=3, points=2)
    params = layer.init(
        jax.random.key(0), drawn((1, 2, 4)), drawn((1, 2, 2)), drawn((1, 49, 4)), SIZES
    )
    same = {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}
    params = {"params": {**params["params"], "value": same, "out": same}}
    ramp = []
    for h, w in SIZES:
        row, col = np.divmod(np.arange(h * w), w)
        ramp.append(np.stack([(col + 0.5) / w, (row + 0.5) / h] * 2, axis=-1))
    memory = np.concatenate(ramp).astype(np.float32)[None]
    box = np.asarray([[[0.5, 0.5, 0.2, 0.4]]], np.float32)
    # of head 0 the offsets are (1, 0) and (2, 0): 1/4 and 1/2 of the width, the mean is 3/8 of it
    got = layer.apply(params, np.zeros((1, 1, 4), np.float32), box, memory, [*SIZES])
    fine = np.asarray([0.5 + 0.2 * 0.375, 0.5, 0.5 - 0.2 * 0.375, 0.5])
    np.testing.assert_allclose(np.asarray(got)[0, 0, 1::2], fine[1::2], atol=1e-6)
    np.testing.assert_allclose(np.asarray(got)[0, 0, ::2], fine[::2], atol=1e-6)


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="other cells"):
        read_points(drawn((1, 48, 1, 2)), SIZES, drawn((1, 1, 1, 3, 1, 2)), drawn((1, 1, 1, 3, 1)))
