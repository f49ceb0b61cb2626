"""LongVU's second stage: the numbers of its authors."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.convert import convert
from streamzoo.zoo.videolm.aggregate import SpatialAggregator, aggregator_rules, cells_of


@pytest.fixture(scope="module")
def sva():
    with np.load(Path(__file__).parent / "data/longvu_sva.npz") as file:
        z = dict(file)
    weights = {k[2:]: v for k, v in z.items() if k.startswith("p/")}
    model = SpatialAggregator(32, 3, (2, 1), 2)
    return model, convert(weights, aggregator_rules((2, 1), 2)), z


def test_two_encoders_become_one_grid_as_in_longvu(sva):
    """The authors' module on random weights: whole pictures, and one with a border."""
    model, variables, z = sva
    x = [z["x0"], z["x1"]]
    np.testing.assert_allclose(model.apply(variables, x), z["y"], atol=1e-5 * z["y"].std())
    got = model.apply(variables, x, [z["keep0"], z["keep1"]])
    np.testing.assert_allclose(got, z["y_masked"], atol=1e-5 * z["y"].std())
    assert np.abs(z["y"] - z["y_masked"]).max() > 0.01


def test_features_that_do_not_suit_the_grid(sva):
    model, variables, z = sva
    with pytest.raises(ValueError, match="features 1 of 6 x 6 cells: 3 queries a side read 1 each"):
        model.apply(variables, [z["x0"], z["x0"]])
    with pytest.raises(ValueError, match="features of 1 encoders"):
        model.apply(variables, [z["x0"]])
    with pytest.raises(ValueError, match="4 x 4 cells for 3 x 3"):
        cells_of(jnp.zeros((1, 4, 4, 2)), 3)
