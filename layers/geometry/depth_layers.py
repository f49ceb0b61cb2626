"""Layers of depth that have scales of their own, linked over time and across windows.

Where two windows of a reconstruction disagree, they disagree layer by layer. LASER segments each
map (felzenszwalb on the depth, neighbours of like depth merged), links segments that overlap, finds
a scale for every link across windows and hands it on along the links in time. Here a fixed number
of labels comes from gaps between sorted depths, so that all of it is one jitted program; two things
at one distance share a label.

Source: LASER (github.com/neu-vi/LASER, inference_engine/utils/depth.py and lsa.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .scales import depth_scales

Array = jax.Array
SAMPLES = 512  # quantiles between which gaps are looked for
GAP = 0.1  # of the range of depths: nearer things are one layer
IN_TIME, ACROSS = 0.3, 0.4  # least IoU of a link


def layer_edges(depth: Array, mask: Array, layers: int) -> Array:
    """Where one layer ends and the next begins: depths [layers - 1], rising, infinite where there
    are fewer layers.

    Args:
      depth, mask: [...], all frames of a window together, and which pixels are believed.
      layers: at most.
    """
    d = jnp.where(mask & jnp.isfinite(depth), depth, jnp.nan).ravel()
    at = jnp.nanquantile(d, jnp.linspace(0, 1, SAMPLES), method="nearest")
    at = jnp.where(jnp.isnan(at), 0.0, at)
    gaps = at[1:] - at[:-1]
    wide = gaps >= GAP * jnp.maximum(at[-1] - at[0], 1e-9)
    best, place = jax.lax.top_k(jnp.where(wide, gaps, -1.0), layers - 1)
    middle = 0.5 * (at[place] + at[place + 1])
    return jnp.sort(jnp.where(best > 0, middle, jnp.inf))


def label_layers(depth: Array, edges: Array) -> Array:
    """int32 labels of depth [...], 0 the nearest layer."""
    return (depth[..., None] >= edges).sum(axis=-1, dtype=jnp.int32)


def overlap(first: Array, second: Array, layers: int) -> Array:
    """IoU of every label of one map with every label of another, int [N] each: [layers, layers]."""
    one = lambda labels: (labels[:, None] == jnp.arange(layers, dtype=labels.dtype)[None]).astype(
        jnp.float32
    )
    a, b = one(first), one(second)
    both = a.T @ b
    union = a.sum(axis=0)[:, None] + b.sum(axis=0)[None] - both
    return both / jnp.maximum(union, 1.0)


def layer_scales(
    source: Array, target: Array, source_labels: Array, target_labels: Array, layers: int,
    stop: float = 0.05,
) -> Array:  # fmt: skip
    """The scale of every layer of every frame of a window: [T, layers], 1 where nothing says one.

    Args:
      source: depth [O, H, W] of the window before, its frames that the two windows share.
      target: depth [T, H, W] of this window, whose first O frames are the same ones.
      source_labels, target_labels: int of the same shapes.
      layers: number of labels.
      stop: see :mod:`.scales`.
    """
    shared, frames = source.shape[0], target.shape[0]
    flat = lambda a: a.reshape(a.shape[0], -1)
    source, target, source_labels = flat(source), flat(target), flat(source_labels)
    target_labels = flat(target_labels)

    def across(p: Array, q: Array, before: Array, now: Array) -> tuple[Array, Array]:
        """Of one shared frame: what links say, (sum of IoU x scale, sum of IoU) per label."""
        links = overlap(before, now, layers)
        links = jnp.where(links >= ACROSS, links, 0.0)
        pair = before * layers + now
        scale = depth_scales(p, q, pair, layers * layers, stop=stop)
        scale = scale.reshape(layers, layers)
        return (links * jnp.where(links > 0, scale, 0.0)).sum(axis=0), links.sum(axis=0)

    said, weight = jax.vmap(across)(target[:shared], source, source_labels, target_labels[:shared])
    none = jnp.zeros((frames - shared, layers))
    said, weight = jnp.concatenate([said, none]), jnp.concatenate([weight, none])
    links = jax.vmap(overlap, in_axes=(0, 0, None))(target_labels[:-1], target_labels[1:], layers)
    links = jnp.where(links >= IN_TIME, links, 0.0)
    # before the first frame nothing leads to it
    links = jnp.concatenate([jnp.zeros((1, layers, layers)), links])

    def step(before, now):
        mean, known = before
        said, weight, links = now
        links = links * known[:, None]
        said = said + (links * mean[:, None]).sum(axis=0)
        weight = weight + links.sum(axis=0)
        known = (weight > 0).astype(jnp.float32)
        mean = jnp.where(weight > 0, said / jnp.where(weight > 0, weight, 1.0), 1.0)
        return (mean, known), mean

    start = (jnp.ones((layers,)), jnp.zeros((layers,)))
    return jax.lax.scan(step, start, (said, weight, links))[1]


def scale_map(scales: Array, labels: Array) -> Array:
    """scales [T, layers], labels [T, H, W] -> the scale of every pixel [T, H, W]."""
    flat = labels.reshape(labels.shape[0], -1)
    return jnp.take_along_axis(scales, flat, axis=1).reshape(labels.shape)
