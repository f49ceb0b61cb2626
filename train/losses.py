"""Losses of the action students. M is any product of leading axes, K boxes, C classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .micro import per_part

Array = jax.Array


def label_loss(logits: Array, labels: Array, multi_label: bool, smoothing: float) -> Array:
    """Cross-entropy of logits with 0/1 labels, both [..., C] -> [...]."""
    if multi_label:
        target = labels * (1 - 2 * smoothing) + smoothing
        return (jax.nn.softplus(logits) - target * logits).mean(axis=-1)
    target = labels * (1 - smoothing) + smoothing / labels.shape[-1]
    return -(target * jax.nn.log_softmax(logits)).sum(axis=-1)


def masked_mean(values: Array, mask: Array, counted: Array | None = None) -> Array:
    """Mean of ``values`` where ``mask`` (weights of the same shape); 0 if nowhere.

    In a micro-batch: its share of the whole step's mean (see ``train.micro``).

    counted: :func:`count` of the mask, taken beforehand, for a call inside a ``lax`` branch.
    """
    mask = mask.astype(values.dtype)
    return (values * mask).sum() / (count(mask) if counted is None else counted)


def count(mask: Array) -> Array:
    """What :func:`masked_mean` divides by: the sum of a mask, at least 1."""
    return per_part(mask.sum(dtype=jnp.float32))


def generalised_iou(a: Array, b: Array) -> Array:
    """GIoU (Rezatofighi et al., arXiv 1902.09630) of boxes [..., 4] pairwise: [...] in [-1, 1]."""
    area = lambda z: jnp.prod(jnp.maximum(z[..., 2:] - z[..., :2], 0.0), axis=-1)

    def span(low, high):
        corners = [low(a[..., :2], b[..., :2]), high(a[..., 2:], b[..., 2:])]
        return jnp.concatenate(corners, axis=-1)

    inter = area(span(jnp.maximum, jnp.minimum))
    hull = jnp.maximum(area(span(jnp.minimum, jnp.maximum)), 1e-9)
    union = jnp.maximum(area(a) + area(b) - inter, 1e-9)
    return inter / union - (hull - union) / hull


def person_loss(
    objectness: Array, edges: Array, boxes: Array, scores: Array, sure: float = 0.4
) -> tuple[Array, Array]:
    """What the person head should have said: (objectness loss, box loss), two scalars.

    objectness [M, h, w] logits, edges [M, h, w, 4] (``zoo.action.heads.Persons``); boxes
    [M, K, 4] with the scores [M, K] of the detector that teaches. A box below ``sure`` is neither
    wanted nor forbidden. Penalty-reduced focal loss around centres (CenterNet, arXiv 1904.07850)
    and GIoU in the cells near them.
    """
    _, rows, cols = objectness.shape
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 * jnp.asarray([cols, rows])
    sigma = jnp.maximum((boxes[..., 2:] - boxes[..., :2]) * jnp.asarray([cols, rows]) / 6, 0.3)
    x, y = jnp.arange(cols) + 0.5, jnp.arange(rows) + 0.5
    across = ((x - centre[..., :1]) / sigma[..., :1]) ** 2  # [M, K, w]
    down = ((y - centre[..., 1:]) / sigma[..., 1:]) ** 2  # [M, K, h]
    heat = jnp.exp(-0.5 * (down[..., :, None] + across[..., None, :]))  # [M, K, h, w]
    at = jnp.clip(jnp.floor(centre), 0, jnp.asarray([cols - 1, rows - 1]))
    middle = (x - 0.5 == at[..., :1])[..., None, :] & (y - 0.5 == at[..., 1:])[..., :, None]
    heat = jnp.where(middle, 1.0, heat)
    known = jnp.where((scores > 0)[..., None, None], heat, 0.0).max(axis=1)  # [M, h, w]
    wanted = jnp.where((scores >= sure)[..., None, None], heat, 0.0)
    owner = wanted.argmax(axis=1)
    near = wanted.max(axis=1)
    positive = near >= 1.0
    p = jax.nn.sigmoid(objectness)
    hit = (1 - p) ** 2 * jax.nn.softplus(-objectness)
    miss = (1 - known) ** 4 * p**2 * jax.nn.softplus(objectness)
    found = jnp.where(positive, hit, miss).sum() / count(positive)

    said = jnp.stack(
        [
            x / cols - edges[..., 0],
            y[:, None] / rows - edges[..., 1],
            x / cols + edges[..., 2],
            y[:, None] / rows + edges[..., 3],
        ],
        axis=-1,
    )
    meant = jnp.take_along_axis(boxes, owner.reshape(owner.shape[0], -1, 1), axis=1)
    giou = generalised_iou(said, meant.reshape(*owner.shape, 4))
    return found, masked_mean(1.0 - giou, jnp.where(near > 0.3, near, 0.0))


def soft_multi_label(logits: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """Binary cross-entropy against the teacher's probabilities, less the teacher's own entropy.

    logits, teacher [..., C] -> mean over classes [...]: the KL divergence of each class's
    Bernoulli, 0 where they agree. With a temperature the usual factor T^2 keeps the gradient's
    size (Hinton et al., arXiv 1503.02531).
    """
    s, t = logits / temperature, teacher / temperature
    p = jax.nn.sigmoid(t)
    each = jax.nn.softplus(s) - jax.nn.softplus(t) - p * (s - t)
    return temperature**2 * each.mean(axis=-1)


def soft_class(logits: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """KL of the student's softmax from the teacher's: logits, teacher [..., C] -> [...].

    Temperature as in :func:`soft_multi_label`."""
    log_s = jax.nn.log_softmax(logits / temperature)
    log_t = jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * (jnp.exp(log_t) * (log_t - log_s)).sum(axis=-1)


def current_rows(attention: Array, tokens: int, back: int = 0) -> Array:
    """What a clip's attention says about one frame: [..., N, N] -> [..., tokens, tokens].

    The rows of the last ``tokens`` queries on the last ``tokens`` keys, made to sum to 1 again:
    a student that sees one frame at a time has no other keys. ``back`` goes that many times
    ``tokens`` back, to the frame that a teacher with look-ahead answers for.
    """
    last = attention.shape[-1] - back * tokens
    own = slice(last - tokens, last)
    rows = attention[..., own, own].astype(jnp.float32)
    return rows / jnp.maximum(rows.sum(axis=-1, keepdims=True), 1e-9)


def attention_divergence(rows: Array, teacher: Array) -> Array:
    """KL of attention rows [..., N, N] from the teacher's, mean over queries: [...]."""
    t = teacher.astype(jnp.float32)
    log = lambda a: jnp.log(jnp.maximum(a, 1e-9))
    return (t * (log(t) - log(rows.astype(jnp.float32)))).sum(axis=-1).mean(axis=-1)


def feature_distance(features: Array, teacher: Array, eps: float = 1e-6) -> Array:
    """Mean squared difference of vectors [..., D] after layer norm without gains: [...]."""

    def norm(x: Array) -> Array:
        x = x.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + eps)

    return ((norm(features) - norm(teacher)) ** 2).mean(axis=-1)


def uncertainty_weighted(
    losses: dict[str, Array], log_variance: dict[str, Array], floor: float = -6.0
) -> Array:
    """sum of exp(-s) L + s over all terms: each is weighed by a learned variance exp(s).

    losses, log_variance: equal keys and shapes, scalars or one value per layer. For constant
    losses the optimum is s = log L, so every term ends with the same say whatever its unit.
    Source: Kendall, Gal and Cipolla (arXiv 1705.07115), without its factors of 1/2.

    floor: s is held above it, or a term that reaches 0 would be weighed without bound.

    Raises:
      ValueError: the two name different terms.
    """
    if set(losses) != set(log_variance):
        raise ValueError(f"losses {sorted(losses)} are weighed by {sorted(log_variance)}")
    total = jnp.float32(0.0)
    for name, value in losses.items():
        s = jnp.maximum(log_variance[name], floor)
        total += (jnp.exp(-s) * value + s).sum()
    return total
