"""Rows of one layer under LiveVLM: which stay when there are too many, and which a question reads.

Source: as of :mod:`.livevlm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from ..kernels.attention import attention_with_rows
from ..memory import EMPTY
from ..streaming import Array
from .buckets import LATE, bucketed

Turn = Callable[[Array, Array], Array]  # x [B, N, H, Dh] that stands at place [B, N, A], turned


class Rows(NamedTuple):
    """What one layer holds: S + M + R rows, the first, the chosen and the latest.

    keys, values: [B, C, G, Dh], un-turned; serial [B, C] int32, EMPTY for none; place [B, C, A];
    asked [B, Q, H, Dh], the latest queries, un-turned, and asked_place [B, Q, A], asked_serial
    [B, Q].
    """

    keys: Array
    values: Array
    serial: Array
    place: Array
    asked: Array
    asked_place: Array
    asked_serial: Array


@dataclass(frozen=True)
class Choice:
    """Which rows stay, and which a question reads.

    Attributes:
      sinks: first rows, which stay.
      long: rows that are chosen (M).
      recent: latest rows, kept in full (R).
      buckets: stretches of the stream that share ``long`` (N); None: as many as rows, one each.
      top: rows of the highest scores that stay whatever their bucket.
      asked: latest queries that say what matters (r).
      page: neighbouring chosen rows that a question reads together, or not.
      ratio: share of the pages that a question reads.

    Raises:
      ValueError: numbers that leave nothing.
    """

    sinks: int = 4
    long: int = 768
    recent: int = 252
    buckets: int | None = None
    top: int = 64
    asked: int = 16
    page: int = 16
    ratio: float = 0.4

    def __post_init__(self) -> None:
        small = min(self.long, self.recent, self.asked, self.page, self.buckets or 1)
        if small < 1 or self.sinks < 0 or self.top < 0 or not 0 < self.ratio <= 1:
            raise ValueError(
                f"{self}: at least one chosen and one latest row, one query, one bucket, a page of"
                " one row, and a share of the pages above 0, up to 1"
            )
        if self.buckets is not None and self.buckets > self.long:
            raise ValueError(f"{self.buckets} buckets share {self.long} rows: at least one each")

    @property
    def capacity(self) -> int:
        return self.sinks + self.long + self.recent

    @property
    def room(self) -> int:
        """Rows of a bucket."""
        return self.long // (self.buckets or self.long)

    def compress(self, rows: Rows, total: Array, turn: Turn) -> Rows:
        """The chosen and the latest rows become ``long`` chosen ones; ``total`` [B] tokens came
        behind the first, and ``turn(x, place)`` turns queries and keys."""
        first, late = (
            self.sinks,
            rows._replace(
                **{name: getattr(rows, name)[:, self.sinks :] for name in Rows._fields[:4]}
            ),
        )
        held = late.serial >= 0
        asks = rows.asked_serial
        seen = held[:, None] & (late.serial[:, None] <= asks[..., None]) & (asks >= 0)[..., None]
        _, weight = attention_with_rows(
            turn(rows.asked, rows.asked_place), turn(late.keys, late.place), late.values,
            seen[:, None],
        )  # fmt: skip
        score = weight.sum(axis=(1, 2))
        stretch = -(-total // (self.buckets or self.long))
        bucket = (late.serial - first) // jnp.maximum(stretch, 1)[:, None]
        stays = bucketed(score, bucket, held, self.long, self.room, self.top)
        order = jnp.argsort(jnp.where(stays, late.serial, LATE), axis=1)[:, : self.long]
        take = lambda a: jnp.take_along_axis(
            a, order.reshape(*order.shape, *(1,) * (a.ndim - 2)), 1
        )
        serial = jnp.where(take(stays), take(late.serial), EMPTY)
        gone = ((0, 0), (0, self.recent))
        put = lambda old, new: old.at[:, first : first + self.long].set(new)
        return rows._replace(
            keys=put(rows.keys, take(late.keys)),
            values=put(rows.values, take(late.values)),
            place=put(rows.place, take(late.place)),
            serial=jnp.concatenate(
                [rows.serial[:, :first], jnp.pad(serial, gone, constant_values=EMPTY)], axis=1
            ),
        )

    def pages(self, q: Array, keys: Array, serial: Array, valid: Array) -> Array:
        """Which rows a question reads: q [B, T, H, Dh] and keys [B, C, G, Dh] of a layer, un-turned
        -> [B, C] bool: the first and the latest, and the best share of the pages of the chosen."""
        batch, count, heads = len(q), -(-self.long // self.page), q.shape[2]
        number = jnp.maximum(valid.sum(axis=1), 1)[:, None, None]
        asked = (q * valid[:, :, None, None]).sum(axis=1) / number
        end = self.sinks + self.long
        pad = ((0, 0), (0, count * self.page - self.long))
        held = jnp.pad(serial[:, self.sinks : end] >= 0, pad).reshape(batch, count, self.page)
        rows = jnp.pad(keys[:, self.sinks : end], (*pad, (0, 0), (0, 0)))
        rows = rows.reshape(batch, count, self.page, *keys.shape[2:]) * held[..., None, None]
        mean = rows.sum(axis=2) / jnp.maximum(held.sum(axis=2), 1)[..., None, None]
        mean = jnp.repeat(mean, heads // keys.shape[2], axis=2)
        score = jnp.einsum("bhd,bphd->bp", asked, mean)
        some = held.any(axis=2)
        rank = jnp.argsort(jnp.argsort(jnp.where(some, -score, jnp.inf), axis=1, stable=True), 1)
        most = jnp.ceil(self.ratio * some.sum(axis=1) - 1e-6).astype(jnp.int32)
        read = jnp.repeat(some & (rank < most[:, None]), self.page, axis=1)[:, : self.long]
        sides = jnp.ones((batch, self.sinks), bool), jnp.ones((batch, self.recent), bool)
        return jnp.concatenate([sides[0], read, sides[1]], axis=1) & (serial >= 0)
