"""The optimiser: clipping, AdamW or Muon, warm-up and cosine, layer-wise rates, averaged weights.

Blocks are stacked over depth (``layers/transformer/stack.py``): a leaf ``…/blocks/layer<i>/…`` is
[repeats, ...] and its slice r belongs to block r * period + i. Whatever depends on the depth or on
the number of axes of a parameter has to know that.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..layers.streaming import Carry, Params
from ..zoo.ranges import Checked, Positive, Range, Share, Weight, renamed

Array = jax.Array
Tree = TypeVar("Tree")  # of arrays
NAMES = ("adamw", "muon")
BelowOne = Annotated[float, Range(0, 1, below=True)]
BLOCK = re.compile(r"^(?P<stack>(?:.*/)?blocks)/layer(?P<index>\d+)/")
# what comes before the first block, and so has the smallest rate
_STEM = re.compile(r"(?:^|/)(?:patch_embed|pos_embed|cls_token|embed\w*)(?:/|$)")


@renamed(rate="learning_rate", decay="weight_decay")
@dataclasses.dataclass(frozen=True)
class OptimConfig(Checked):
    """How the weights follow the gradient.

    Attributes:
      name: "adamw"; or "muon": orthogonalised momentum (Jordan et al. 2024, with the update size
        of arXiv 2502.16982) on the blocks' matrices and AdamW on the rest, with one rate for both.
      learning_rate: the highest, at the end of the warm-up.
      warmup: a fraction of all steps if below 1, else steps.
      final: the last rate as a fraction of ``learning_rate``.
      weight_decay: of matrices; biases, norms and other vectors have none.
      layer_decay: factor on the rate per block, counted down from the head (1: none).
      clip: largest global norm of a gradient; 0: any. Other trainers say -1 for that, and so may a
        config file; a setting may not.
      ema: share kept by the average of the weights at each step, reached slowly; 0: no averaging.
      betas: Adam's; also of Muon's AdamW part.
      momentum: Muon's.
      sphere: after every step each vector of a block's matrices that reads or writes the tokens has
        length 1 again (nGPT, arXiv 2410.01131; Nemotron-Flash, arXiv 2511.18890, section 4): set
        ``weight_decay=0`` with it.
    """

    name: str = "adamw"
    learning_rate: Positive = 1e-3
    warmup: Weight = 0.05
    final: Share = 0.0
    weight_decay: Weight = 0.05
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    clip: Annotated[float, Range(0, note="0: no clipping")] = 1.0
    ema: BelowOne = 0.998
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    momentum: BelowOne = 0.95
    sphere: bool = False

    def __post_init__(self):
        if self.clip == -1:
            object.__setattr__(self, "clip", 0.0)
        super().__post_init__()
        if self.name not in NAMES:
            raise ValueError(f"no optimiser is called {self.name!r}; there are {', '.join(NAMES)}")


def path_of(path: Any) -> str:
    """'/'-joined name of a leaf of a pytree, as ``jax.tree_util`` gives its path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def warmup_steps(config: OptimConfig, steps: int) -> int:
    """Steps until the rate is at its highest, at least 1 and less than ``steps``."""
    count = config.warmup * steps if config.warmup < 1 else config.warmup
    return max(1, min(int(count), steps - 1))


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Step -> rate: linear from 0 to ``rate``, then half a cosine to ``final * rate``."""
    return optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        warmup_steps(config, steps),
        max(steps, 2),
        end_value=config.final * config.learning_rate,
    )


def is_matrix(path: str, leaf: Array) -> bool:
    """Whether a parameter is a weight matrix (or a convolution), seen without the stacked axis.

    Biases, the scales of norms, and tables of positions and tokens are not.
    """
    axes = leaf.ndim - bool(BLOCK.match(path))
    return axes >= 2 and not path.endswith(("bias", "scale", "embed", "token"))


def layer_scale(params: Params, decay: float) -> Params:
    """Factor on the rate of every parameter, broadcastable to it: arrays for stacked leaves.

    With L blocks the head and everything that is no block has 1, block d (from 0) has
    decay ** (L - d), and what comes before the blocks (patch and position embeddings) has
    decay ** (L + 1): BEiT's layer-wise decay (arXiv 2106.08254, appendix). Every stack of blocks
    (``<prefix>/blocks/layer<i>/…``) counts its own depth, and its prefix's stem follows it.
    """
    leaves = [(path_of(p), leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(params)]
    periods: dict[str, int] = {}
    repeats: dict[str, int] = {}
    for path, leaf in leaves:
        if found := BLOCK.match(path):
            stack = found["stack"]
            periods[stack] = max(periods.get(stack, 0), int(found["index"]) + 1)
            repeats[stack] = leaf.shape[0]

    def scale(path: Any, leaf: Array) -> Any:
        name = path_of(path)
        if found := BLOCK.match(name):
            period = periods[found["stack"]]
            depth = np.arange(leaf.shape[0]) * period + int(found["index"])
            below = period * repeats[found["stack"]] - depth
            factors = np.power(decay, below).astype(np.float32)
            return factors.reshape(-1, *[1] * (leaf.ndim - 1))
        if stem := _STEM.search(name):
            stack = name[: stem.start()] + ("/blocks" if stem.start() else "blocks")
            if stack in periods:
                return np.float32(decay ** (periods[stack] * repeats[stack] + 1))
        return np.float32(1.0)

    return jax.tree_util.tree_map_with_path(scale, params)


def _map_names(fn: Any, params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda p, leaf: fn(path_of(p), leaf), params)


def make_optimiser(
    config: OptimConfig, steps: int, params: Params, scale: Params | None = None
) -> optax.GradientTransformation:
    """The transformation of gradients into changes of ``params`` over ``steps`` steps.

    params: the weights or their shapes. scale: factor on the rate per parameter, a pytree like
    ``params`` of broadcastable arrays; None: :func:`layer_scale`.
    """
    if config.name == "adamw":
        direction = optax.scale_by_adam(*config.betas)
    else:

        def dimensions(tree: Any) -> Any:
            def kind(path: str, leaf: Array) -> Any:
                # the stacked axis is a batch of matrices [L, in, out]
                if not (BLOCK.match(path) and leaf.ndim == 3 and is_matrix(path, leaf)):
                    return None
                return optax.contrib.MuonDimensionNumbers((1,), (2,))

            return _map_names(kind, tree)

        # rate 1, so that decay and layer-wise rates are applied below, as for AdamW
        direction = optax.chain(
            optax.contrib.muon(
                1.0,
                beta=config.momentum,
                adam_b1=config.betas[0],
                adam_b2=config.betas[1],
                consistent_rms=0.2,  # updates of the size that AdamW makes, one rate for both
                muon_weight_dimension_numbers=dimensions,
            ),
            optax.scale(-1.0),
        )
    if scale is None and config.layer_decay != 1:
        scale = layer_scale(params, config.layer_decay)
    parts = [
        optax.clip_by_global_norm(config.clip) if config.clip else None,
        direction,
        optax.add_decayed_weights(config.weight_decay, _map_names(is_matrix, params)),
        scale_each(scale) if scale is not None else None,
        optax.scale_by_learning_rate(schedule(config, steps)),
        onto_sphere() if config.sphere else None,
    ]
    return optax.chain(*[part for part in parts if part is not None])


def scale_each(scale: Params | None) -> optax.GradientTransformation:
    """Multiplies every update by its own factor."""

    def update(updates: Any, state: Carry, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u, s: (u * s).astype(u.dtype), updates, scale), state

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    return optax.GradientTransformation(init, update)


def unit_vectors(path: str, leaf: Array) -> Array:
    """A block's matrix [L, in, out] with vectors of length 1 along the axis of the tokens: what
    comes in, but what goes out where a branch ends (``out``, ``down``). Other leaves, and vectors
    of zeros, stay as they are."""
    if not (BLOCK.match(path) and leaf.ndim == 3 and is_matrix(path, leaf)):
        return leaf
    axis = -1 if path.rpartition("/")[0].endswith(("/out", "/down")) else -2
    length = jnp.linalg.norm(leaf, axis=axis, keepdims=True)
    return leaf / jnp.where(length > 0, length, 1.0)


def onto_sphere() -> optax.GradientTransformation:
    """Changes an update so that the weights after it are :func:`unit_vectors`."""

    def update(updates: Any, state: Carry, params: Any = None) -> tuple[Any, Any]:
        after = jax.tree.map(jnp.add, params, updates)
        wanted = _map_names(unit_vectors, after)
        return jax.tree.map(jnp.subtract, wanted, params), state

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    return optax.GradientTransformation(init, update)


def averaged(average: Tree, params: Tree, step: Array, ema: float) -> Tree:
    """The average after ``step`` (from 0): the share kept rises as (1 + step) / (10 + step) to
    ``ema``, since early averages would otherwise be of random weights."""
    keep = jnp.minimum(ema, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)
