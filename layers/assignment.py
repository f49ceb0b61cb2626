"""Optimal assignment of rows to columns (the Hungarian problem), in lax loops of fixed shapes.

Source: Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
assignment problems" (Computing 38, 1987), in the form of Crouse, "On implementing 2D rectangular
assignment algorithms" (IEEE TAES 52, 2016), which scipy.optimize.linear_sum_assignment follows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class _Dual(NamedTuple):
    u: Array  # [R] price of each row
    v: Array  # [N] price of each column
    column: Array  # [R] int32, the row's column, or -1
    row: Array  # [N] int32, the column's row, or -1


def assign(similarity: Array) -> Array:
    """The pairs of rows and columns whose similarities add up to the most.

    A row may stay alone, for 0: pairs of similarity 0 or less are never made. Where all
    similarities are at least 0 the total is that of
    ``scipy.optimize.linear_sum_assignment(similarity, maximize=True)``.

    Args:
      similarity: [R, K], finite. fp32: totals closer than about 1e-6 count as equal.

    Returns:
      [R] int32: the column of each row, -1 where it has none.
    """
    rows, columns = similarity.shape
    if not rows or not columns:
        return jnp.full((rows,), -1, jnp.int32)
    # R columns more, which cost nothing: a row that stays alone takes one of them.
    cost = jnp.minimum(-similarity.astype(jnp.float32), 0.0)
    cost = jnp.concatenate([cost, jnp.zeros((rows, rows), jnp.float32)], axis=1)
    state = _reduced(cost)
    state = jax.lax.while_loop(
        lambda s: (s.column < 0).any(), lambda s: _augment(cost, s, jnp.argmin(s.column)), state
    )
    made = jnp.take_along_axis(cost, state.column[:, None], axis=1)[:, 0] < 0
    return jnp.where(made & (state.column < columns), state.column, -1)


def _reduced(cost: Array) -> _Dual:
    """Every row's cheapest column, for the first of the rows that want it.

    Prices are feasible and the pairs made are tight, so what remains are the rows in conflict:
    few, where objects are tracked.
    """
    rows, columns = cost.shape
    u, want = cost.min(axis=1), jnp.argmin(cost, axis=1).astype(jnp.int32)
    # Rows that want to be alone get a column of their own each, so they are never in conflict.
    alone = u >= 0
    want = jnp.where(alone, columns - rows + jnp.arange(rows, dtype=jnp.int32), want)
    index = jnp.arange(rows, dtype=jnp.int32)
    first = jnp.full((columns,), rows, jnp.int32).at[want].min(index)
    column = jnp.where(first[want] == index, want, -1)
    return _Dual(u, jnp.zeros((columns,), jnp.float32), column, jnp.where(first < rows, first, -1))


def _augment(cost: Array, s: _Dual, start: Array) -> _Dual:
    """One row more is assigned, along the cheapest path from it to a free column."""
    columns = cost.shape[1]

    def grow(search):
        row, length, distance, before, done, _ = search
        reach = length + cost[row] - s.u[row] - s.v
        nearer = ~done & (reach < distance)
        distance = jnp.where(nearer, reach, distance)
        before = jnp.where(nearer, row, before)
        left = jnp.where(done, jnp.inf, distance)
        # Of columns equally near a free one: the path ends there.
        length = left.min()
        tied = left <= length
        sink = jnp.argmax(tied & (s.row < 0))
        sink = jnp.where(tied[sink] & (s.row[sink] < 0), sink, jnp.argmax(tied)).astype(jnp.int32)
        return s.row[sink], length, distance, before, done.at[sink].set(True), sink

    none = jnp.full((columns,), -1, jnp.int32)
    begin = (
        start.astype(jnp.int32),
        jnp.float32(0),
        jnp.full((columns,), jnp.inf, jnp.float32),
        none,
        jnp.zeros((columns,), bool),
        jnp.int32(0),
    )
    row, length, distance, before, done, sink = jax.lax.while_loop(
        lambda search: search[0] >= 0, grow, begin
    )
    # New prices keep every pair made tight, and all else feasible.
    slack = jnp.where(done, length - distance, 0.0)
    u = s.u.at[jnp.where(done & (s.row >= 0), s.row, s.u.size)].add(slack, mode="drop")
    u = u.at[start].add(length)
    v = s.v - slack

    def turn(path):
        sink, column, row_of, _ = path
        row = before[sink]
        following = column[row]
        return following, column.at[row].set(sink), row_of.at[sink].set(row), row == start

    end = jax.lax.while_loop(lambda p: ~p[3], turn, (sink, s.column, s.row, jnp.bool_(False)))
    return _Dual(u, v, end[1], end[2])
