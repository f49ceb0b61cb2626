"""What is moved of a memory, read from a compiled program: small ones, whose answer is known."""

import jax
import jax.numpy as jnp

from streamzoo.layers.stacked import Layer

from . import moves

STACK = jax.ShapeDtypeStruct((1, 6, 64, 64), jnp.float32)
X = jax.ShapeDtypeStruct((1, 64), jnp.float32)
LAYER = 4 * 64 * 64


def compiled(read):
    """Six layers, each of which reads its own part and writes another one in its place."""

    def body(loop, index):
        layer, x = Layer(loop[0], index), loop[1]
        own = read(layer)
        new = own + jnp.sin(x)[:, None]
        return (layer.write(new).stack, jnp.einsum("bde,bd->be", new, x)), None

    run = lambda stack, x: jax.lax.scan(body, (stack, x), jnp.arange(6))[0]
    return jax.jit(run, donate_argnums=0).lower(STACK, X).compile().as_text()


def test_a_layer_is_read_and_written_once():
    found = moves.moved(compiled(Layer.read))
    assert found.total <= 2 * 6 * LAYER, found.worst


def test_a_slice_that_xla_fuses_costs_a_copy_of_the_stack_in_every_layer():
    """Why Layer.read is written as it is; a compiler that no longer does so makes it needless."""
    plain = lambda a: jax.lax.dynamic_index_in_dim(a.stack, a.at, 1, keepdims=False)
    found = moves.moved(compiled(plain))
    assert found.total >= 6 * 6 * LAYER
    assert any(kind.startswith("copy") for _, kind in found.worst)


def test_a_frame_written_into_a_ring_counts_as_a_frame():
    run = lambda ring, x, i: jax.lax.dynamic_update_index_in_dim(ring, x[:, None] * 2, i, 1)
    ring = jax.ShapeDtypeStruct((1, 16, 64), jnp.float32)
    lowered = jax.jit(run, donate_argnums=0).lower(ring, X, jax.ShapeDtypeStruct((), jnp.int32))
    assert moves.moved(lowered.compile().as_text()).total == 4 * 64


def test_what_is_not_donated_does_not_count():
    run = jax.jit(lambda a, x: (a + 1, x[:, ::2] * 1), donate_argnums=0)
    assert moves.moved(run.lower(X, STACK).compile().as_text()).total == 0
