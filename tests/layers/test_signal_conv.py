"""Streamable convolutions: equal to the clip from the first frame, and to cached_conv's numbers."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.signal.attention import Sliding
from streamzoo.layers.signal.conv import Conv, Transposed
from streamzoo.layers.signal.emitted import Each, Parallel, Series
from streamzoo.layers.signal.ticks import verify_signal
from streamzoo.layers.transformer import BlockConfig

from .signal_streams import run

GOLDEN = Path(__file__).parents[3] / "shared/goldens/speech/cached_conv.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN.name} is not beside")


def centred(kernel, stride=1):
    return Conv(4, 4, kernel, stride, ((kernel - 1) // 2,) * 2)


def causal(kernel, stride=1):
    return Conv(4, 4, kernel, stride, (kernel - 1, 0))


def squashed(layers, what=jnp.tanh):
    """The layers, a function behind each."""
    return Series(tuple(part for layer in layers for part in (layer, Each(what))))


def keep(x):
    return x


NETS = {
    "conv_k3": squashed([centred(3)]),
    "conv_k7s2": squashed([centred(7, 2)]),
    "seq_centered_s1121": squashed([centred(3), centred(5), centred(7, 2), centred(9)]),
    "seq_centered_s2211": squashed([centred(3, 2), centred(5, 2), centred(7), centred(9)]),
    "seq_causal_s2211": squashed([causal(3, 2), causal(5, 2), causal(7), causal(9)]),
    "convT_k8s4p2": Series((Transposed(4, 4, 8, 4, 2),)),
    "autoencoder_s4": Series(
        (
            *squashed([centred(7, 2), centred(5, 2), Transposed(4, 4, 4, 2, 1)]).layers,
            Transposed(4, 4, 4, 2, 1),
        )
    ),
    "residual_k5": Series((Parallel((Each(keep), centred(5)), (4,)),)),
    "parallel_s2": Series((Parallel((centred(5, 2), centred(3, 2)), (4,)),)),
}


def signal(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 4))


def weights(net, seed=0):
    """Random ones, biases too."""
    variables = jax.jit(net.init)(jax.random.key(seed), net.init_carry(1), signal(0, 1, 3))
    return jax.tree.map(
        lambda p: p + 0.2 * jax.random.normal(jax.random.key(9), p.shape), variables
    )


def stored(name, net):
    """(arrays of one net, its weights in our layout)."""
    with np.load(GOLDEN) as file:
        z = {k.split("/")[1]: file[k] for k in file.files if k.startswith(name + "/")}
    kinds = list(convolutions(net))
    given = iter(sorted((k for k in z if k.startswith("param")), key=lambda k: int(k[5:])))
    want: dict[str, Any] = {}
    for path, module in kinds:
        kernel, bias = z[next(given)], z[next(given)]
        order = (2, 0, 1) if isinstance(module, Transposed) else (2, 1, 0)
        leaf = {"kernel": jnp.asarray(kernel.transpose(order)), "bias": jnp.asarray(bias)}
        at = want
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = leaf
    return z, {"params": want}


def convolutions(net, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, module) of every convolution, in order."""
    if isinstance(net, Conv | Transposed):
        yield path, net
    for kind in ("layers", "branches"):
        for i, part in enumerate(getattr(net, kind, ())):
            yield from convolutions(part, (*path, f"{kind}_{i}"))


@needs_golden
@pytest.mark.parametrize("name", NETS)
def test_streams_are_cached_convs_clips_from_the_first_frame(name):
    net = NETS[name]
    z, variables = stored(name, net)
    assert net.delay() == z["delay"]
    x = jnp.asarray(z["x"].swapaxes(1, 2))
    clip = z["offline"].swapaxes(1, 2)
    assert net.length(x.shape[1]) == clip.shape[1]
    whole = run(net, variables, x, [x.shape[1]])
    pieces = [7] * (x.shape[1] // 7) + [x.shape[1] % 7] * (x.shape[1] % 7 > 0)
    for rows in (whole, run(net, variables, x, pieces)):
        np.testing.assert_allclose(np.stack(rows), clip, atol=2e-6)
    # theirs, late by the delay, after the frames in which its zeros were no padding
    late, warm = int(z["delay"]), 2 * int(z["delay"])
    theirs = z["stream_chunk4" if name != "convT_k8s4p2" else "stream_chunk1"].swapaxes(1, 2)
    ours = np.stack(whole)[:, warm : clip.shape[1] - late]
    np.testing.assert_allclose(ours, theirs[:, late + warm :], atol=2e-6)


UNEVEN = {
    "stride 3 of kernel 4, more padding behind": Conv(4, 4, 4, 3, (1, 2)),
    "dilated, depthwise": Conv(4, 4, 3, 2, (3, 3), dilation=3, groups=4),
    "no padding at all": Conv(4, 3, 5, 2, groups=1, bias=False),
    "transposed, kernel no multiple": Transposed(4, 3, 5, 2, 1),
    "a stride larger than the kernel": Conv(4, 4, 2, 5, (0, 1)),
    "down and up beside the input itself": Parallel(
        (Each(keep), Series((Conv(4, 4, 5, 3, (2, 2)), Transposed(4, 4, 3, 3)))), (4,)
    ),
    "attention to what comes": Sliding(BlockConfig(4, 2, kv_heads=1), 3, 2),
    "groups": Conv(4, 6, 3, 1, (1, 1), groups=2),
}


LAWFUL = ["down and up beside the input itself", "autoencoder_s4", "parallel_s2", *UNEVEN]


@pytest.mark.slow  # it compiles some hundred programs; in the default run: test_signal_spectrum.py
@pytest.mark.parametrize("name", dict.fromkeys(LAWFUL))
def test_the_law(name):
    net = {**NETS, **UNEVEN}[name]
    verify_signal(net, weights(net), signal)


@pytest.mark.parametrize("name", [*NETS, *UNEVEN])
def test_counts_are_what_comes(name):
    """``emitted`` and ``length`` of 1 to 40 inputs, and that latency brings all of them."""
    net = {**NETS, **UNEVEN}[name]
    carry = jax.eval_shape(lambda: net.init_carry(1))
    out = jax.eval_shape(lambda c, x: net.init(jax.random.key(0), c, x), carry, signal(0, 1, 2))
    variables = jax.tree.map(lambda a: jnp.ones(a.shape), out)
    step = jax.jit(lambda c, x: net.apply(variables, c, x))
    end = jax.jit(lambda c: net.apply(variables, c, method="flush"))
    carry, seen = net.init_carry(1), 0
    for n in range(1, 41):
        carry, given = step(carry, signal(n, 1, 1))
        seen += int(given.valid.sum())
        assert seen == net.emitted(n), n
        _, rest = end(carry)
        assert seen + (0 if rest is None else int(rest.valid.sum())) == net.length(n), n
        assert net.emitted(n + net.latency) >= net.length(n)
    assert Fraction(net.emitted(4000), 4000) == pytest.approx(net.rate, abs=0.01)


@pytest.mark.slow
def test_gaps_do_not_spread():
    """A stream of which some inputs never came is the stream of those that came, to its end; the
    one beside it is as it was."""
    net = NETS["seq_centered_s1121"]
    variables, x = weights(net), signal(3, 2, 24)
    valid = np.ones((2, 24), bool)
    valid[0, [0, 5, 6, 17, 20, 21, 22, 23]] = False
    poisoned = jnp.where(valid[..., None], x, jnp.nan)
    got = run(net, variables, poisoned, [5, 1, 11, 7], jnp.asarray(valid))
    alone = run(net, variables, x[:1, valid[0]], [16])
    np.testing.assert_allclose(got[0], alone[0], atol=2e-6)
    np.testing.assert_allclose(got[1], run(net, variables, x[1:], [24])[0], atol=2e-6)
    assert len(got[0]) == net.length(16)


def test_paddings_and_groups_that_cannot_be_are_refused():
    wrong: dict[str, Any]
    for wrong in (dict(padding=(3, 0)), dict(padding=(0, -1)), dict(groups=3), dict(stride=0)):
        with pytest.raises(ValueError):
            Conv(4, 4, 3, **wrong)
    for kernel, stride, padding in ((2, 3, 0), (4, 2, 3)):
        with pytest.raises(ValueError, match="stride"):
            Transposed(4, 4, kernel, stride, padding)
