"""CTC and transducer losses: values and gradients of other implementations, and of every path."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train import alignment

GOLDEN = Path(__file__).parents[3] / "shared/goldens/speech/rnnt_fastemit_ctc.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN.name} is not beside")


def stored():
    with np.load(GOLDEN) as file:
        return dict(file)


def paths_of_transducer(steps, labels):
    """Every walk through the lattice: (u, symbol or None for the blank) by frame."""
    for cuts in itertools.combinations_with_replacement(range(steps), len(labels)):
        moves, u = [], 0
        for t in range(steps):
            while u < len(labels) and cuts[u] == t:
                moves.append((t, u, labels[u]))
                u += 1
            moves.append((t, u, None))
        yield moves


@pytest.mark.parametrize("blank", [0, 2])
def test_the_transducer_is_the_sum_over_all_paths(blank):
    steps, labels = [4, 3, 1], [[1, 3, 3], [3, 1, 0], [0, 0, 0]]
    counts = [3, 1, 0]
    logits = np.random.default_rng(0).normal(size=(3, 4, 4, 5)).astype(np.float32)
    got = alignment.transducer_loss(
        jnp.asarray(logits), jnp.asarray(steps), jnp.asarray(labels), jnp.asarray(counts), blank
    )
    log = np.asarray(jax.nn.log_softmax(logits))
    for b in range(3):
        total = -np.inf
        for moves in paths_of_transducer(steps[b], labels[b][: counts[b]]):
            path = sum(log[b, t, u, blank if s is None else s] for t, u, s in moves)
            total = np.logaddexp(total, path)
        np.testing.assert_allclose(got[b], -total, rtol=2e-6)


@pytest.mark.slow
def test_ctc_is_the_sum_over_all_paths():
    steps, labels, counts = [4, 3, 2], [[1, 1], [2, 3], [1, 1]], [2, 2, 2]
    logits = np.random.default_rng(1).normal(size=(3, 4, 4)).astype(np.float32)
    args = (jnp.asarray(steps), jnp.asarray(labels), jnp.asarray(counts))
    got, grad = jax.value_and_grad(
        lambda x: jnp.where(jnp.isfinite(y := alignment.ctc_loss(x, *args)), y, 0.0).sum()
    )(jnp.asarray(logits))
    each = alignment.ctc_loss(jnp.asarray(logits), *args)
    log = np.asarray(jax.nn.log_softmax(logits))
    for b in range(3):
        total = -np.inf
        for path in itertools.product(range(4), repeat=steps[b]):
            said = [s for s, _ in itertools.groupby(path) if s]
            if said == labels[b]:
                total = np.logaddexp(total, sum(log[b, t, s] for t, s in enumerate(path)))
        np.testing.assert_allclose(each[b], -total, rtol=2e-6)
    assert np.isinf(each[2])  # two equal labels need three frames
    assert np.isfinite(grad).all() and not np.asarray(grad)[2].any() and np.asarray(grad)[0].any()


@pytest.mark.slow
def test_what_lies_beyond_an_utterance_is_not_read():
    rng = np.random.default_rng(2)
    labels, counts = jnp.asarray([[1, 2, 4]]), jnp.asarray([2])
    frames = jnp.asarray([3])
    clean = rng.normal(size=(1, 5, 4, 6)).astype(np.float32)
    dirty = clean.copy()
    dirty[:, 3:] = np.nan
    dirty[:, :, 3:] = 99.0
    loss = lambda x: alignment.transducer_loss(x, frames, labels, counts, 0, 0.01).sum()
    want, got = (jax.value_and_grad(loss)(jnp.asarray(x)) for x in (clean, dirty))
    np.testing.assert_array_equal(got[0], want[0])
    assert np.isfinite(got[1]).all()
    np.testing.assert_array_equal(got[1], want[1])
    # and it is the loss of the utterance alone
    alone = alignment.transducer_loss(
        jnp.asarray(clean[:, :3, :3]), frames, labels[:, :2], counts, 0, 0.01
    )
    np.testing.assert_allclose(got[0], alone[0], rtol=1e-6)
    flat = clean[:, :, 0]
    poisoned = np.where(np.arange(5)[None, :, None] < 3, flat, np.nan)
    ctc = lambda x: alignment.ctc_loss(jnp.asarray(x), frames, labels, counts)
    np.testing.assert_array_equal(ctc(poisoned), ctc(flat))


def test_logits_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"U \+ 1"):
        alignment.transducer_loss(
            jnp.zeros((1, 3, 2, 4)), jnp.asarray([3]), jnp.zeros((1, 2), int), jnp.asarray([2])
        )


@needs_golden
@pytest.mark.parametrize("fast_emit", [0.0, 0.001, 0.005, 0.01, 0.1])
def test_fast_emit_is_that_of_nemo(fast_emit):
    z = stored()
    args = [jnp.asarray(z[k]) for k in ("act_lens", "labels", "label_lens")]
    args += [int(z["blank"]), fast_emit]
    logits = jnp.asarray(z["acts"])
    run = lambda f, x: jax.value_and_grad(lambda v: (y := f(v, *args)).sum() + 0 * y[0])(x)[1]
    for kind in ("numpy", "cpu"):
        costs = alignment.transducer_loss(logits, *args)
        np.testing.assert_allclose(costs, z[f"lam{fast_emit}/costs_{kind}"], rtol=1e-6)
        grad = run(alignment.transducer_cost, jax.nn.log_softmax(logits))
        np.testing.assert_allclose(grad, z[f"lam{fast_emit}/grad_logprobs_{kind}"], atol=4e-6)
    grad = run(alignment.transducer_loss, logits)
    np.testing.assert_allclose(grad, z[f"lam{fast_emit}/grad_logits_numpy"], atol=4e-6)
    # what FastEmit is: the blank's gradients are those without it, to the last bit
    plain = jax.grad(lambda v: alignment.transducer_cost(v, *args[:-1]).sum())
    blank = int(z["blank"])
    both = [np.asarray(g) for g in (run(alignment.transducer_cost, logits), plain(logits))]
    np.testing.assert_array_equal(both[0][..., blank], both[1][..., blank])
    labels = np.delete(both[0], blank, -1), np.delete(both[1], blank, -1)
    assert labels[1].any()
    np.testing.assert_allclose(labels[0], labels[1] * (1 + fast_emit), rtol=1e-5)


@needs_golden
def test_costs_are_those_of_double_precision():
    z = stored()
    args = [jnp.asarray(z[k]) for k in ("act_lens", "labels", "label_lens")]
    args.append(int(z["blank"]))
    costs = alignment.transducer_loss(jnp.asarray(z["acts"]), *args)
    np.testing.assert_allclose(costs, z["autograd_costs_f64"], rtol=1e-6)
    grad = jax.grad(lambda x: alignment.transducer_loss(x, *args).sum())(jnp.asarray(z["acts"]))
    np.testing.assert_allclose(grad, z["autograd_grad_logits_f64"], atol=4e-6)


@needs_golden
def test_ctc_is_that_of_torch():
    z = stored()
    args = [jnp.asarray(z[k]) for k in ("ctc_in_len", "ctc_targets", "ctc_tgt_len")]
    logits = jnp.asarray(z["ctc_logits"]).swapaxes(0, 1)
    loss = lambda x: alignment.ctc_loss(x, *args)
    np.testing.assert_allclose(loss(logits), z["ctc_loss"], rtol=1e-5)
    grad = jax.grad(lambda x: loss(x).sum())(logits).swapaxes(0, 1)
    np.testing.assert_allclose(grad, z["ctc_grad_logits"], atol=4e-6)
