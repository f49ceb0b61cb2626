"""Working and long-term memory against lists that grow and shrink, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import three_store
from streamzoo.layers.prototypes import share
from streamzoo.layers.three_store import StoreSizes, add, empty_stores, forget, read

CELLS, KEY, VALUE, ASK = 6, 5, 3, 4
SIZES = StoreSizes(frames=5, kept=3, prototypes=4, long=19, nearest=7)


def likeness(key, shrink, query, select):
    """[N, M]: loops over channels are written out."""
    far = ((key[:, None] - query[None]) ** 2 * select[None]).sum(-1)
    return -far * shrink[:, None] / np.sqrt(key.shape[-1])


def shares(like, nearest=0):
    if nearest:
        like = np.where(like >= np.sort(like, 0)[-nearest:][0], like, -np.inf)
    weight = np.exp(like - like.max(0))
    return weight / weight.sum(0)


class Lists:
    """One row: entries as dictionaries, the first frame's before the others."""

    def __init__(self, sizes):
        self.sizes, self.work, self.long = sizes, [], []

    def read(self, query, select):
        entries = self.long + [e for frame in self.work for e in frame]
        key, shrink, value = (np.stack([e[n] for e in entries]) for n in ("key", "shrink", "value"))
        weight = shares(likeness(key, shrink, query, select), min(self.sizes.nearest, len(entries)))
        for entry, used in zip(entries, weight.sum(1), strict=True):
            entry["usage"] += used
            entry["reads"] += 1
        return weight.T @ value

    def add(self, key, shrink, select, value):
        names = ("key", "shrink", "select", "value")
        frame = [
            dict(zip(names, one, strict=True), usage=0.0, reads=0)
            for one in zip(key, shrink, select, value, strict=True)
        ]
        self.work.append(frame)
        s = self.sizes
        if not s.long:
            self.work = self.work[:1] + self.work[1:][-(s.frames - 1) :]
        elif len(self.work) >= s.frames:
            last = len(self.work) - (s.kept - 1)
            going = [e for frame in self.work[1:last] for e in frame]
            self.work = self.work[:1] + self.work[last:]
            self.consolidate(going)

    def consolidate(self, going):
        s = self.sizes
        used = lambda e: e["usage"] / (e["reads"] + 1e-7)
        if len(self.long) >= s.long - s.prototypes:
            most = s.long - s.prototypes - s.spare
            ranked = sorted(self.long, key=used, reverse=True)
            limit = used(ranked[most]) if most < len(ranked) else -1.0
            self.long = ranked[:most] if s.ties else [e for e in self.long if used(e) > limit]
        best = sorted(going, key=used, reverse=True)[: s.prototypes]
        key, shrink, value = (np.stack([e[n] for e in going]) for n in ("key", "shrink", "value"))
        for one in best:
            weight = shares(likeness(key, shrink, one["key"][None], one["select"][None]))[:, 0]
            self.long.append(dict(
                key=one["key"], shrink=weight @ shrink, value=weight @ value, usage=0.0, reads=0,
            ))  # fmt: skip


def frame(rng):
    """(key, shrink, select, value) of a frame."""
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    select = 1 / (1 + np.exp(-normal(CELLS, KEY)))
    return 1.5 * normal(CELLS, KEY), normal(CELLS) ** 2 + 1, select, normal(CELLS, VALUE)


@pytest.mark.parametrize(
    "sizes",
    [
        SIZES,
        dataclasses.replace(SIZES, ties=True, spare=3),
        dataclasses.replace(SIZES, long=0, prototypes=0, kept=1),
    ],
    ids=["xmem", "cutie", "first in, first out"],
)
def test_stores_are_lists(sizes):
    """Rows 49 and 50. Two rows; the second starts later and is forgotten once."""
    rng = np.random.default_rng(0)
    stores = empty_stores((1, 2), sizes, CELLS, KEY, VALUE, "float32")
    lists = [Lists(sizes), Lists(sizes)]
    write = jax.jit(lambda s, *given: add(s, sizes, *given))
    look = jax.jit(lambda s, *given: read(s, sizes, *given))
    for t in range(40):
        if t == 21:
            stores = forget(stores, jnp.asarray([[False, True]]))
            lists[1] = Lists(sizes)
        here = np.asarray([True, t >= 4 and t != 21])
        query, _, select, _ = frame(rng)
        query, select = query[:ASK], select[:ASK]
        reading = np.asarray([bool(rows.work) for rows in lists]) & (t % 3 > 0)
        after, found = look(stores, query[None, None], select[None, None], reading[None])
        for row in np.flatnonzero(reading):
            want = lists[row].read(query, select)
            np.testing.assert_allclose(found[0, row], want, atol=2e-5)
        stores = jax.tree.map(
            lambda n, o: jnp.where(reading.reshape(1, 2, *(1,) * (n.ndim - 2)), n, o), after, stores
        )
        key, shrink, wanted, value = frame(rng)
        values = np.stack([value, -value])
        lead = lambda a: a[None, None]
        stores = write(stores, lead(key), lead(shrink), lead(wanted), values[None], here[None])
        for row in np.flatnonzero(here):
            lists[row].add(key, shrink, wanted, values[row])
        assert np.asarray(stores.working.count)[0].tolist() == [len(rows.work) for rows in lists]
        if sizes.long:
            assert np.asarray(stores.long.count)[0].tolist() == [len(rows.long) for rows in lists]
    assert not sizes.long or len(lists[0].long) + sizes.spare >= sizes.long


def test_the_nearest_are_read_and_nothing_reads_as_nothing():
    like = jnp.asarray([[[0.0, -1.0, -2.0, -3.0]]])
    there = jnp.asarray([[True, False, True, True]])
    want = np.exp([0.0, -np.inf, -2.0, -np.inf])
    np.testing.assert_allclose(share(like, there, 2)[0, 0], want / want.sum(), rtol=1e-6)
    assert not share(like, jnp.zeros((1, 4), bool), 2).any()


@pytest.mark.slow
def test_counts_of_a_year_stay_exact(monkeypatch):
    """Usage and reads are halved together, so that neither grows beyond what fp32 counts."""
    monkeypatch.setattr(three_store, "MANY", 4)
    rng = np.random.default_rng(1)
    stores = empty_stores((1, 1), SIZES, CELLS, KEY, VALUE, "float32")
    lead = lambda a: a[None, None]
    on = jnp.ones((1, 1), bool)
    for _ in range(SIZES.frames):
        key, shrink, select, value = map(lead, frame(rng))
        stores = add(stores, SIZES, key, shrink, select, value, on)
    query, _, select, _ = frame(rng)
    ratios = []
    for _ in range(9):
        stores, _ = read(stores, SIZES, lead(query), lead(select), on)
        reads = np.asarray(stores.long.reads)[0, 0]
        assert reads.max() < 4 and int(stores.working.reads.max()) <= 4
        ratios.append(np.asarray(stores.long.usage)[0, 0, :4] / np.maximum(reads[:4], 1))
    np.testing.assert_allclose(ratios[-1], ratios[0], rtol=0.35)


@pytest.mark.parametrize(
    "change, words",
    [({"kept": 5}, "some must go"), ({"long": 7}, "twice the prototypes must fit")],
)
def test_sizes_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SIZES, **change)
