"""Parameters drawn at random, for laws that hold whatever the weights are."""

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.zoo.weights import shapes_of


def drawn(name, scale, mean=0.0, **fields):
    """Parameters of a registered architecture with these fields, normal numbers of one seed."""
    leaves, tree = jax.tree.flatten(shapes_of(name, **fields))
    rng = np.random.default_rng(0)
    numbers = [jnp.asarray(rng.normal(mean, scale, a.shape), a.dtype) for a in leaves]
    return jax.tree.unflatten(tree, numbers)
