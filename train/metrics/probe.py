"""How much a frozen encoder's features tell about classes: nearest neighbours and a linear probe.

N videos or images to learn from, M to measure on, D channels, C classes.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


def knn(
    train: Array, labels: Array, test: Array, *, k: int = 20, temperature: float = 0.07
) -> Array:
    """The class that the ``k`` nearest by cosine vote for, each with exp(cosine / temperature).

    Source: Caron et al., DINO (arXiv 2104.14294), after Wu et al. (1805.01978); k and temperature
    are theirs.

    Args:
      train: [N, D]; labels [N] ints; test [M, D].

    Returns:
      [M] ints. Equal votes go to the lower class; with N < k all of them vote.

    Raises:
      ValueError: shapes that do not fit, or k below 1.
    """
    train, labels, test = _checked(train, labels, test)
    if k < 1:
        raise ValueError(f"k={k}: at least one neighbour votes")
    k = min(k, len(train))
    near = _unit(test) @ _unit(train).T
    found = np.argpartition(-near, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(near, found, axis=1) - 1.0) / temperature)
    votes = np.zeros((len(test), labels.max() + 1))
    np.add.at(votes, (np.arange(len(test))[:, None], labels[found]), weight)
    return votes.argmax(axis=1)


class Probe(NamedTuple):
    """A linear classifier: ``features @ weight + bias`` are the logits."""

    weight: Array  # [D, C]
    bias: Array  # [C]

    def __call__(self, features: Array) -> Array:
        """[M, D] -> the classes [M]."""
        return (np.asarray(features, np.float64) @ self.weight + self.bias).argmax(axis=1)


def linear_probe(train: Array, labels: Array, *, decay: float = 1e-3, steps: int = 200) -> Probe:
    """Multinomial logistic regression on frozen features, to its optimum (L-BFGS).

    Minimises the mean cross-entropy plus ``decay / 2`` times the squared weights (not the bias) of
    features standardised per channel by their own mean and deviation.

    Args:
      train: [N, D]; labels [N] ints.

    Raises:
      ValueError: shapes that do not fit.
    """
    train, labels, _ = _checked(train, labels, train)
    mean, std = train.mean(axis=0), train.std(axis=0)
    std = np.where(std > 1e-8, std, 1.0)
    fit = _solver(steps)((train - mean) / std, labels, int(labels.max()) + 1, decay)
    weight = np.asarray(fit["weight"], np.float64) / std[:, None]
    return Probe(weight, np.asarray(fit["bias"], np.float64) - mean @ weight)


def accuracies(train: Array, labels: Array, test: Array, truth: Array) -> dict[str, float]:
    """``knn`` and ``probe``, top-1, of features [N, D] and [M, D] with their classes."""
    return {
        "knn": float((knn(train, labels, test) == truth).mean()),
        "probe": float((linear_probe(train, labels)(test) == truth).mean()),
    }


@functools.cache
def _solver(steps: int) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    def solve(x: Any, labels: Any, classes: int, decay: Any) -> Any:
        def objective(p: Any) -> Any:
            logits = x @ p["weight"] + p["bias"]
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss + 0.5 * decay * (p["weight"] ** 2).sum()

        optimiser = optax.lbfgs()
        value_and_grad = optax.value_and_grad_from_state(objective)

        def step(given: Any, _: None) -> Any:
            p, state = given
            value, grad = value_and_grad(p, state=state)
            change, state = optimiser.update(
                grad, state, p, value=value, grad=grad, value_fn=objective
            )
            return (optax.apply_updates(p, change), state), None

        first = {"weight": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}
        return jax.lax.scan(step, (first, optimiser.init(first)), length=steps)[0][0]

    run = jax.jit(solve, static_argnums=2)
    return lambda x, y, classes, decay: run(jnp.asarray(x, jnp.float32), y, classes, decay)


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _checked(train: ArrayLike, labels: ArrayLike, test: ArrayLike) -> tuple[Array, Array, Array]:
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    labels = np.asarray(labels)
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or not len(train):
        raise ValueError(f"features {train.shape} and {test.shape} are not [N, D] and [M, D]")
    if labels.shape != train.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"labels {labels.shape} {labels.dtype} are not [{len(train)}] ints from 0")
    return train, labels, test
