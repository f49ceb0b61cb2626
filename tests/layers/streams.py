"""Small streaming modules for the tests of the contract kit: right ones, and ways to be wrong."""

import jax
import jax.numpy as jnp

from streamzoo.layers.contract import Subject

WIDTH, RING = 4, 3


def frames(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, WIDTH))


def tokens(seed, batch, steps):
    return jax.random.randint(jax.random.key(seed), (batch, steps), 0, 10)


def stepwise(frame):
    """A step from ``frame(carry, x [B, ...]) -> (carry, y)``; invalid frames are left out."""

    def step(carry, x, valid):
        keep = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def one(c, piece):
            value, k = piece
            hold = lambda n, o: jnp.where(k.reshape(k.shape + (1,) * (n.ndim - 1)), n, o)
            new, y = frame(c, hold(value, jnp.zeros_like(value)))
            y = jax.tree.map(lambda a: hold(a, jnp.zeros_like(a)), y)
            return jax.tree.map(hold, new, c), y

        carry, y = jax.lax.scan(one, carry, (x.swapaxes(0, 1), keep.T))
        return carry, jax.tree.map(lambda a: a.swapaxes(0, 1), y)

    return step


def of(frame, init, **options):
    return Subject(init, stepwise(frame), options.pop("make_input", frames), **options)


# --- decayed sum: memory without end


def no_sum(batch):
    return {"sum": jnp.zeros((batch, WIDTH)), "count": jnp.zeros((batch,), jnp.int32)}


def add(c, x):
    new = 0.5 * c["sum"] + x
    return {"sum": new, "count": c["count"] + 1}, new


# --- the last RING frames, the newest weighed most


def empty_ring(batch, dtype=jnp.int32):
    return {"ring": jnp.zeros((batch, RING, WIDTH)), "count": jnp.zeros((batch,), dtype)}


def ring_of(slot=lambda n: n % RING, go_on=lambda n: n + 1):
    """Frames go to ``slot(count)``; ``go_on`` is what becomes of the count."""

    def frame(c, x):
        at = slot(c["count"])
        here = jnp.arange(RING)[None] == at[:, None]
        ring = jnp.where(here[..., None], x[:, None], c["ring"])
        age = (at[:, None] - jnp.arange(RING)[None]) % RING
        y = (ring * (0.5**age)[..., None]).sum(axis=1)
        return {"ring": ring, "count": go_on(c["count"])}, y

    return frame


# --- answers two frames late


def two_zeros(batch):
    return {"a": jnp.zeros((batch, WIDTH)), "b": jnp.zeros((batch, WIDTH))}


def delay(c, x):
    return {"a": c["b"], "b": x}, c["a"]


def both(c):
    return c, jnp.stack([c["a"], c["b"]], axis=1)


def late(flush=both, latency=2, frame=delay):
    return of(frame, two_zeros, latency=latency, flush=flush)


def ahead(c, x):
    """The frame before with half of this one and a quarter of the one before that."""
    return {"a": c["b"], "b": x}, c["b"] + 0.5 * x + 0.25 * c["a"]


# --- token numbers

TABLE = jax.random.normal(jax.random.key(9), (10, WIDTH))


def read(c, x):
    new = 0.9 * c["sum"] + 0.1 * TABLE[x]
    return {"sum": new, "count": c["count"] + 1}, new
