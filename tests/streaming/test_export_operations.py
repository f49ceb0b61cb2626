"""Every operation that a step may hold, as ONNX in both runtimes, against JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

pytest.importorskip("onnx", reason="the format is an extra")
pytest.importorskip("onnxruntime", reason="the runtime is an extra")

from streamzoo.streaming.export import onnx_program
from streamzoo.streaming.export.loop import OPEN
from streamzoo.streaming.export.onnx_graph import UnsupportedOperation, narrow
from streamzoo.streaming.export.unroll import flat

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 6)).astype(np.float32)
Y = RNG.normal(size=(2, 5, 6)).astype(np.float32)
I = RNG.integers(-3, 9, (2, 4)).astype(np.int32)  # noqa: E741  (some out of range)
U = RNG.integers(0, 256, (2, 5, 6)).astype(np.uint8)
B = RNG.random((2, 5, 6)) > 0.5
TIED = RNG.integers(0, 3, (3, 7)).astype(np.float32)
# few peaks among equal values, as the cells of a detector have
PEAKS = np.where(RNG.random((2, 300)) > 0.99, RNG.random((2, 300)), 0).astype(np.float32)
IMAGE = RNG.normal(size=(2, 7, 9, 4)).astype(np.float32)
S = np.array(3, np.int32)


def conv(x, **options):
    shape = options.pop("shape", (3, 3, 4, 5))
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def masked(x):
    """Large constants that repeat a row, a value, or nothing."""
    few = jnp.where(jnp.arange(40) % 3 == 0, -jnp.inf, 0.0)
    mask = jnp.broadcast_to(few, (2, 5, 30, 40))
    kernel = jnp.ones((6, 1500)) * jnp.arange(6.0)[:, None]
    return jnp.where(x[..., :1, None] > 0, mask, 1.0), x @ kernel, mask[:, :, ::2].max(-1)


def counted(x, n):
    """A loop that ends by itself, with a call inside."""
    going = lambda s: (s[0] < n) & (s[1].sum() < 50.0)
    turn = lambda s: (s[0] + 1, jax.nn.relu(s[1]) * 1.5 + x)
    return lax.while_loop(going, turn, (jnp.int32(0), x))


def folded(x):
    weights = jnp.arange(18.0).reshape(3, 6) / 10

    def turn(h, w):
        return jnp.tanh(h + w), h.sum(-1)

    return lax.scan(turn, x, weights, reverse=True)


CASES = {
    "elementary": (lambda x, y: (x + y, x - y, x * y, x / y, -x, jnp.abs(x), jnp.sign(x)), X, Y),
    "exponential": (lambda x: (jnp.exp(x), jnp.exp2(x), jnp.expm1(x * 1e-3), jnp.tanh(x),
                               jax.nn.sigmoid(x)), X),
    "logarithm": (lambda x: (jnp.log(x * x), jnp.log1p(x * x), jnp.log1p(1e-6 * x * x)), X),
    "roots": (lambda x: (jnp.sqrt(x * x), lax.rsqrt(x * x + 1), x**3, (x * x + 1) ** -2), X),
    "rounding": (lambda x: (jnp.round(2 * x), jnp.floor(x), jnp.ceil(x),
                            lax.round(2 * x, lax.RoundingMethod.AWAY_FROM_ZERO)), X),
    "circle": (lambda x: (jnp.sin(x), jnp.cos(x), lax.erf(x), jax.nn.gelu(x)), X),
    "remainders": (lambda x, i: (lax.rem(x, jnp.float32(1.5)), lax.rem(i, jnp.int32(4)),
                                 lax.div(i, jnp.int32(2)), i // 3, i % 3), X, I),
    "finite": (lambda x: jnp.isfinite(x / jnp.where(x > 0, 0.0, 1.0)), X),
    "logic": (lambda b, x: (b & (x > 0), b | (x > 1), b ^ (x > 0), ~b, jnp.where(b, x, -x),
                            jnp.where(b, x > 0, x < 1), jnp.maximum(b, x > 0)), B, X),
    "comparisons": (lambda u, i: (u == 7, u > 100, i >= 2, i != 3, i <= 0), U, I),
    "types": (lambda u, x, b: (u.astype(jnp.float32) / 255, x.astype(jnp.int32),
                               jnp.clip(50 * x, 0, 255).astype(jnp.uint8), b.astype(jnp.float32),
                               x.astype(jnp.bfloat16) * jnp.bfloat16(1.1)), U, X, B),
    "clamp": (lambda x: lax.clamp(-0.5, x, 0.5), X),
    "select": (lambda i: lax.select_n(jnp.clip(i, 0, 2), i, i + 10, i + 20), I),
    "broadcasts": (lambda x, y: (x[:, :, None] + y[:, None], x + y[0], x * y.mean((0, 1))), X, Y),
    "shapes": (lambda x: (x.reshape(10, 6), x.transpose(2, 0, 1), x[:, None], x[0, 1:4, ::2],
                          jnp.squeeze(x[:1], 0), jnp.tile(x, (1, 2, 1)), jnp.flip(x, (0, 2))), X),
    "joining": (lambda x, y: (jnp.concatenate([x, y], 1), jnp.stack([x, y], 1),
                              jnp.split(x, [1, 4], 1)), X, Y),
    "pads": (lambda x, b: (jnp.pad(x, ((0, 0), (1, 2), (3, 0))),
                           jnp.pad(b, ((0, 1), (1, 0), (0, 0))),
                           lax.pad(x, jnp.float32(7), ((0, 0, 2), (1, -2, 0), (-1, 0, 1)))), X, B),
    "sums": (lambda x, b, i: (x.sum(1), x.mean((0, 2)), x.max(2), x.min(), x.prod(1), b.any(1),
                              b.all((0, 2)), i.sum(1), x.std(1)), X, B, I),
    "places": (lambda x, t: (jnp.argmax(x, 1), jnp.argmin(x, 2), jnp.argmax(t, 1),
                             jnp.cumsum(x, 1), lax.cumsum(x, 2, reverse=True)), X, TIED),
    "products": (lambda x, y: (jnp.einsum("bnd,bmd->bnm", x, y), jnp.einsum("bnd,bne->bde", x, y),
                               jnp.einsum("bnd,dk->bnk", x, y[0].T), jnp.tensordot(x, y, 3),
                               jnp.einsum("bnd,bnd->bn", x, y), jnp.einsum("bnd,ne->bde", x, y[0]),
                               x[0, 0] @ y[0, 0]), X, Y),
    "whole products": (lambda i: jnp.einsum("bn,bm->nm", i, i), I),
    "convolution": (conv, IMAGE),
    "strided": (lambda x: conv(x, window_strides=(2, 3), padding=((1, 0), (2, 2))), IMAGE),
    "grouped": (lambda x: conv(x, feature_group_count=4, shape=(3, 3, 1, 8)), IMAGE),
    "dilated": (lambda x: conv(x, rhs_dilation=(2, 1), padding="VALID"), IMAGE),
    "transposed": (lambda x: conv(x, lhs_dilation=(2, 2), padding=((1, 2), (1, 1))), IMAGE),
    "pools": (lambda x: (lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
                                           ((0, 0), (1, 1), (1, 1), (0, 0))),
                         lax.reduce_window(x, 0.0, lax.add, (1, 2, 3, 1), (1, 1, 1, 1), "VALID")),
              IMAGE),
    "take": (lambda x, i: (jnp.take(x, i, 1), jnp.take(x, i, 2, mode="clip"), x[0][i],
                           x.at[:, i[0]].get(mode="fill", fill_value=5.0)), X, I),
    "take along": (lambda x, i: (jnp.take_along_axis(x, jnp.clip(i, 0, 4)[:, :, None], 1),
                                 jax.vmap(lambda r, k: r[k])(x, jnp.clip(i, 0, 4)),
                                 x[jnp.array([0, 1]), i[:, 0]], x[:, i[0], i[1]]), X, I),
    "taken flags": (lambda b, i: (jnp.take(b, i, 1), jnp.take(b, i, 2, mode="clip")), B, I),
    "written": (lambda x, i: (x.at[:, i[0]].set(0.0), x.at[:, i[0]].set(1.0, mode="drop"),
                              x.at[0, 1].set(7.0), x.at[i[:, 0] % 2, i[:, 1]].add(1.0),
                              x.at[:, :, 2].max(0.3), x.at[0, i[0]].set(x[1, :4])), X, I),
    "written flags": (lambda b, i: b.at[:, i[0]].set(True, mode="drop"), B, I),
    "at a place": (lambda x, y, s: (
        lax.dynamic_slice(x, (0, s, 1), (2, 3, 4)), lax.dynamic_index_in_dim(x, s, 1, False),
        lax.dynamic_update_slice(x, y[:, :2, :3], (0, s, s)),
        lax.dynamic_update_slice(x, y[:1], (s, 0, 0))), X, Y, S),
    "sorted": (lambda x, t: (jnp.sort(x, 1), jnp.argsort(t, 1), jnp.sort(x, 2, descending=True),
                             jnp.lexsort((t[0], t[1]))), X, TIED),
    "best": (lambda x, t: (lax.top_k(x, 3), lax.top_k(t, 5), lax.top_k(t, 7), lax.top_k(t, 1)),
             X, TIED),
    "best of equals": (lambda p: (lax.top_k(p, 8), lax.top_k(jnp.round(4 * p), 12),
                                  jnp.argsort(p)), PEAKS),
    "masks": (masked, X),
    "loop": (counted, X, S),
    # small, so that each row ends at a turn of its own: by its count, or never begun
    "loop of rows": (jax.vmap(counted, (0, 0)), 0.02 * np.concatenate([X, Y[:1]]),
                     np.array([2, 5, 0], np.int32)),
    "loop of one row": (jax.vmap(counted, (0, 0)), X[:1], np.array([3], np.int32)),
    "flat loop": (folded, X),
    "branch": (lambda x, s: lax.cond(s > 2, lambda a: (a + 1, a.sum()), lambda a: (a * 2, 0.0), x),
               X, S),
    "known switch": (lambda x: lax.switch(1, [lambda a: a, lambda a: a * 2], x), X),
    "constants": (lambda x: (x, jnp.arange(4), jnp.eye(3) * 2), X),
}  # fmt: skip


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_jax(case, runtime):
    pytest.importorskip(runtime, reason="the runtime is an extra")
    f, *arrays = CASES[case]
    wanted = jax.tree.leaves(jax.jit(f)(*arrays))
    program, _ = flat(f, *[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays])
    names = [f"in/{k}" for k in range(len(arrays))], [f"out/{k}" for k in range(len(wanted))]
    made = onnx_program.model(program, *names, "case").SerializeToString()
    got = OPEN[runtime](made)(dict(zip(names[0], arrays, strict=False)))
    for k, want in enumerate(wanted):
        want, found = np.asarray(want), got[f"out/{k}"]
        assert want.shape == found.shape
        close: dict[str, Any] = dict(rtol=3e-5, atol=3e-6)
        if str(want.dtype) == "bfloat16":  # a processor without it computes in 32 bits, unrounded
            want, close = want.astype(np.float32), dict(rtol=2**-7, atol=2**-7)
        assert want.dtype == found.dtype
        np.testing.assert_allclose(found, want, **close, err_msg=f"result {k}")


def test_a_constant_is_as_large_as_what_it_says():
    program, _ = flat(masked, jax.ShapeDtypeStruct(X.shape, np.float32))
    assert sum(c.nbytes for c in program.consts) > 48_000  # the mask as it is traced
    made = onnx_program.model(program, ["x"], ["a", "b", "c"], "case")
    assert made.ByteSize() < 4_000
    signs = np.stack([np.zeros((1, 1000)), np.full((1, 1000), -0.0)])  # equal, and not the same
    assert narrow(signs).shape == (2, 1, 1) and np.signbit(narrow(signs)[1, 0, 0])


def test_an_operation_without_a_form_is_named():
    program, _ = flat(jnp.linalg.cholesky, jax.ShapeDtypeStruct((3, 3), np.float32))
    with pytest.raises(UnsupportedOperation, match="cholesky has no ONNX form"):
        onnx_program.model(program, ["a"], ["b"], "case")
