"""ReSV: keys in clusters by the signs of random projections; a query reads the clusters it weighs.

Source: "V-Rex: Real-Time Streaming Video LLM Acceleration via Dynamic KV Cache Retrieval" (arXiv
2512.12284), section on ReSV. There is no official code: this is written from its equations, and
three things are ours. A raw dot product may be negative, so a cluster weighs exp(score - best)
times its size. Their number is fixed; once all are taken, a key joins the nearest one. The
latest rows are read whatever their cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..memory import EMPTY, Notes, Reader, Rotary, Slots, joined, store
from ..streaming import Array
from .policy import Arrival
from .recent import Recent

NONE = -1  # cluster of a row that is in none


class KeyClusters(NamedTuple):
    """KeyClusters of the keys of one layer: M of each key head.

    label: [B, K, G] int32, the cluster of a row's key.
    total: [B, G, M, Dh], the sum of its keys.
    members: [B, G, M] int32, how many.
    code: [B, G, M, P] bool, the signs of the key that it began with.
    """

    label: Array
    total: Array
    members: Array
    code: Array


@dataclass(frozen=True)
class ReSV:
    """Keeps the latest ``budget`` rows; a query reads the clusters that make up ``mass``.

    Attributes:
      budget: slots.
      clusters: of each key head, M.
      planes: random projections of a key, P.
      near: signs that differ from a cluster's, from which on a key begins another.
      mass: share of all clusters' weight that a query reads, heaviest first; 1.0 is all of it.
      local: latest rows that are read in any case, the one that reads included.
      seed: of the projections.

    Raises:
      ValueError: a number below 1, or a share outside 0 to 1.
    """

    budget: int = 4096
    clusters: int = 256
    planes: int = 32
    near: int = 7
    mass: float = 0.3
    local: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.budget, self.clusters, self.planes, self.near, self.local) < 1:
            raise ValueError(
                f"{self.budget} slots, {self.clusters} clusters, {self.planes} projections,"
                f" {self.near} signs, {self.local} latest rows: at least 1 of each"
            )
        if not 0 < self.mass <= 1:
            raise ValueError(f"mass {self.mass}: a share above 0, up to 1 for everything")

    @property
    def capacity(self) -> int:
        return self.budget

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        return self._window.notes(axes)

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """As of ``Recent(0, budget)``."""
        return self._window.arrive(slots, valid, axes, told)

    def layered(self, keys: Array, heads: int, axes: int) -> Notes:
        del heads, axes
        batch, depth, rows, groups, width = keys.shape
        of_head = (batch, depth, groups, self.clusters)
        return {
            "label": jnp.full((batch, depth, rows, groups), NONE, jnp.int32),
            "total": jnp.zeros((*of_head, width)),
            "members": jnp.zeros(of_head, jnp.int32),
            "code": jnp.zeros((*of_head, self.planes), bool),
        }

    def memories(
        self, slots: Slots, arrival: Arrival, valid: Array, rotary: Rotary, turned: Array
    ) -> Clustered:
        held = joined(slots.notes, arrival.notes, "serial")
        reader = Reader.of(slots.keys, slots.values, arrival.view, rotary, turned)
        found = KeyClusters(*(slots.layered[name] for name in KeyClusters._fields))
        return Clustered(self, reader, found, held, arrival.notes["serial"], valid)

    def settle(
        self, slots: Slots, arrival: Arrival, keys: tuple[Array, KeyClusters], values: Array
    ) -> Slots:
        k, found = jax.tree.map(lambda a: a.swapaxes(0, 1), keys)
        after = store(slots, k, values.swapaxes(0, 1), arrival.notes, arrival.slot)
        put = lambda old, at, new: old.at[at].set(new, mode="drop")
        deep = jax.vmap(jax.vmap(put, in_axes=(0, None, 0)))
        old, new = found.label[:, :, : self.budget], found.label[:, :, self.budget :]
        layered = found._replace(label=deep(old, arrival.slot, new))._asdict()
        return replace(after, layered=layered)

    @property
    def _window(self) -> Recent:
        return Recent(0, self.budget)

    def signs(self, key: Array) -> Array:
        """key [..., Dh] -> [..., P] bool."""
        drawn = np.random.default_rng(self.seed).standard_normal((key.shape[-1], self.planes))
        return key.astype(jnp.float32) @ drawn.astype(np.float32) > 0

    def add(self, found: KeyClusters, key: Array, row: Array | int, there: Array) -> KeyClusters:
        """A key [B, G, Dh] of row ``row`` joins the cluster whose signs are nearest, or begins one;
        nothing where it is not ``there`` [B]."""
        bits = self.signs(key)
        apart = (bits[:, :, None] != found.code).sum(axis=-1, dtype=jnp.int32)
        live = found.members > 0
        apart = jnp.where(live, apart, self.planes + 1)
        nearest, free = apart.argmin(axis=-1), jnp.argmin(live, axis=-1)
        joins = (apart.min(axis=-1) < self.near) | live.all(axis=-1)
        at = jnp.where(joins, nearest, free).astype(jnp.int32)  # [B, G]
        own = at[..., None] == jnp.arange(self.clusters)[None, None]
        fresh = own & ~joins[..., None] & there[:, None, None]
        own = own & there[:, None, None]
        label = jnp.where(there[:, None], at, NONE)
        return KeyClusters(
            found.label.at[:, row].set(label),
            found.total + jnp.where(own[..., None], key.astype(jnp.float32)[:, :, None], 0.0),
            found.members + own.astype(jnp.int32),
            jnp.where(fresh[..., None], bits[:, :, None], found.code),
        )

    def remove(self, found: KeyClusters, keys: Array, row: Array, there: Array) -> KeyClusters:
        """Row ``row`` [B] of ``keys`` [B, K, G, Dh] leaves its cluster, where ``there`` [B]."""
        pick = lambda a: jnp.take_along_axis(a, row.reshape(-1, *(1,) * (a.ndim - 1)), axis=1)[:, 0]
        label, key = pick(found.label), pick(keys).astype(jnp.float32)
        own = (label[..., None] == jnp.arange(self.clusters)[None, None]) & there[:, None, None]
        count = found.members - own.astype(jnp.int32)
        total = found.total - jnp.where(own[..., None], key[:, :, None], 0.0)
        # a cluster that lost its last key has no remains of rounding
        return found._replace(
            total=jnp.where(count[..., None] > 0, total, 0.0),
            members=count,
            label=found.label.at[jnp.arange(len(row)), row].set(
                jnp.where(there[:, None], NONE, label)
            ),
        )

    def choose(self, found: KeyClusters, q: Array) -> Array:
        """Which clusters queries [B, H, Dh] read: [B, H, M] bool, the heaviest until they have more
        than ``mass`` of the weight of all."""
        batch, heads, width = q.shape
        groups = found.members.shape[1]
        mean = found.total / jnp.maximum(found.members, 1)[..., None].astype(found.total.dtype)
        own = q.reshape(batch, groups, heads // groups, width).astype(jnp.float32)
        score = jnp.einsum("bgrd,bgmd->bgrm", own, mean) * width**-0.5
        live = (found.members > 0)[:, :, None]
        best = jnp.where(live, score, -jnp.inf).max(axis=-1, keepdims=True)
        best = jnp.where(jnp.isfinite(best), best, 0.0)
        weight = jnp.where(
            live, jnp.exp(score - best) * found.members[:, :, None].astype(score.dtype), 0.0
        )
        order = jnp.argsort(-weight, axis=-1, stable=True)
        sorted_ = jnp.take_along_axis(weight, order, axis=-1)
        before = jnp.cumsum(sorted_, axis=-1) - sorted_
        taken = before <= self.mass * weight.sum(axis=-1, keepdims=True)
        if self.mass >= 1:  # rounding of the sums shall not leave out the lightest
            taken = jnp.ones_like(taken)
        back = jnp.argsort(order, axis=-1)
        chosen = jnp.take_along_axis(taken, back, axis=-1) & live
        return chosen.reshape(batch, heads, -1)


class Clustered(NamedTuple):
    """The rows of one layer, or of all, with their clusters.

    Attributes:
      policy: how many clusters, and how much of them is read.
      reader: the rows.
      found: their clusters, [B, ...] or [B, L, ...] of all layers.
      held: [B, K] int32, serials of the slots and of the new tokens.
      serial: [B, T] of the new tokens.
      valid: [B, T] bool, those that are there.
    """

    policy: ReSV
    reader: Reader
    found: KeyClusters
    held: Array
    serial: Array
    valid: Array

    def layer(self, index: Array) -> Clustered:
        one = lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, keepdims=False)
        return self._replace(reader=self.reader.layer(index), found=jax.tree.map(one, self.found))

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, tuple[Array, KeyClusters], Array]:
        """As of :class:`Reader`; with the keys go the clusters of the slots and the new tokens."""
        policy, held, (batch, steps) = self.policy, self.held, self.serial.shape
        rows = jnp.concatenate([self.reader.keys.astype(k.dtype), k], axis=1)
        label = jnp.pad(self.found.label, ((0, 0), (0, steps), (0, 0)), constant_values=NONE)
        assert self.reader.seen is not None
        seen = jnp.broadcast_to(self.reader.seen, (batch, steps, held.shape[1]))

        def come(found: KeyClusters, now):
            step, q, k, number, seen, there = now
            old = (held == (number - policy.budget)[:, None]) & (held > EMPTY)
            found = policy.remove(found, rows, old.argmax(axis=1), old.any(axis=1) & there)
            found = policy.add(found, k, policy.budget + step, there)
            chosen = policy.choose(found, q)  # [B, H, M]
            group = jnp.repeat(found.label, q.shape[1] // k.shape[1], axis=2).swapaxes(1, 2)
            read = jnp.take_along_axis(chosen, jnp.maximum(group, 0), axis=2) & (group > NONE)
            late = (held > (number - policy.local)[:, None])[:, None]
            return found, (read | late) & seen[:, None]

        over = tuple(a.swapaxes(0, 1) for a in (q, k, self.serial, seen, self.valid))
        start = self.found._replace(label=label)
        found, read = jax.lax.scan(come, start, (jnp.arange(steps), *over))
        mask = jnp.moveaxis(read, 0, 2)  # [B, H, T, K]
        y, k, v = self.reader._replace(seen=mask)(q, k, v, softcap)
        return y, (k, found), v
