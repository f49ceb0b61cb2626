"""The contract kit judges: each wrong module is caught by the law that it breaks, right ones pass.

Each wrong module is one change of a right one in ``streams.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject, verify_contract

from . import streams as st


def keyframes(c, x):
    """An answer is kept for three frames."""
    held = jnp.where((c["count"] % 3 == 0)[:, None], x, c["sum"])
    return {"sum": held, "count": c["count"] + 1}, held


def first_and_last(c, x):
    first = jnp.where((c["count"] == 0)[:, None], x, c["sum"])
    return {"sum": first, "count": jnp.minimum(c["count"] + 1, 1)}, first + x


def classes(c, x):
    c, y = st.add(c, x)
    return c, {"class": y.argmax(axis=-1), "sure": y.max(axis=-1)}


def wide(c, x):
    """bfloat16 frames at work, fp32 in the carry."""
    new = (0.5 * c["sum"] + x.astype(jnp.bfloat16)).astype(jnp.float32)
    return {**c, "sum": new}, new


def filled(c, x):
    """The mean of the frames that a ring holds; how many there are stops at its size."""
    ring = jnp.concatenate([c["ring"][:, 1:], x[:, None]], axis=1)
    n = jnp.minimum(c["count"] + 1, st.RING)
    return {"ring": ring, "count": n}, ring.sum(axis=1) / n[:, None]


RIGHT = {
    "decayed sum": st.of(st.add, st.no_sum),
    "ring": st.of(st.ring_of(), st.empty_ring),
    "ring with a cursor": st.of(st.ring_of(go_on=lambda n: (n + 1) % st.RING), st.empty_ring),
    "ring with a level": st.of(filled, st.empty_ring),
    "delay": st.late(),
    "look ahead": st.late(lambda c: (c, (c["b"] + 0.25 * c["a"])[:, None]), 1, st.ahead),
    "tokens": st.of(st.read, st.no_sum, make_input=st.tokens),
    "keyframes": st.of(keyframes, st.no_sum),
    "first and last": st.of(first_and_last, st.no_sum),
    "integer outputs": st.of(classes, st.no_sum),
    "mixed types": st.of(wide, st.no_sum, atol=1e-2),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n not in ("ring", "look ahead", "tokens")))
        for n in RIGHT
    ],
)
def test_a_right_module_passes_every_law(name):
    verify_contract(RIGHT[name])


def over(step, init=st.no_sum, right=None, **options):
    """A subject whose whole step is ``step(right step, carry, x, valid)``."""
    right = right or st.stepwise(st.add)
    made = options.pop("make_input", st.frames)
    return Subject(init, lambda c, x, v: step(right, c, x, v), made, **options)


def rolled(x):
    """The frame after each one."""
    return jnp.roll(x, -1, axis=1).at[:, -1].set(0)


def leaks(what):
    def step(right, c, x, v):
        c, y = right(c, x, v)
        return c, y + what(x)

    return step


def chunks(wrong):
    """A fault in chunks of the lengths for which ``wrong`` is true."""

    def step(right, c, x, v):
        new, y = right(c, x, v)
        return new, y + 0.1 if wrong(x.shape[1]) else y

    return step


def outputs(change):
    def step(right, c, x, v):
        new, y = right(c, x, v)
        return new, change(y, new, x, v)

    return step


def carries(change):
    def step(right, c, x, v):
        new, y = right(c, x, v)
        return change(new, c, x, v), y

    return step


def frame_of(change):
    """The decayed sum with ``change(old carry, x, new carry, y)``."""

    def frame(c, x):
        return change(c, x, *st.add(c, x))

    return frame


def gaps_as_zeros(right, c, x, v):
    del v
    return right(c, jnp.nan_to_num(x), None)


def gap_lets_the_last_in(right, c, x, v):
    return right(c, jnp.nan_to_num(x), v if v is None else v.at[:, -1].set(True))


def writes(right, c, x, v):
    new, y = right(dict(c), x, v)
    c["sum"] = new["sum"]
    return new, y


class Hidden:
    """State that is not in the carry: how often the step was traced."""

    def __init__(self):
        self.calls = 0

    def __call__(self, right, c, x, v):
        self.calls += 1
        new, y = right(c, x, v)
        return new, y + 1e-3 * self.calls


class Restless:
    """A first carry that is another one each time."""

    calls = 0

    def __call__(self, batch):
        self.calls += 1
        return {**st.no_sum(batch), "sum": jnp.full((batch, st.WIDTH), float(self.calls))}


def later(frames, then):
    """A decayed sum to which ``then(old, x, new, y)`` happens from frame ``frames`` on."""

    def change(c, x, new, y):
        other = then(c, x, new, y)
        pick = lambda a, b: jnp.where(
            (c["count"] >= frames).reshape((-1,) + (1,) * (a.ndim - 1)), a, b
        )
        return jax.tree.map(pick, other, (new, y))

    return st.of(frame_of(change), st.no_sum)


def late_chunk(right, c, x, v):
    new, y = right(c, x, v)
    old = (c["count"] > 100)[:, None, None] & (x.shape[1] > 1)
    return new, y + 0.1 * old


def stopped(c):
    return jax.tree.map(jax.lax.stop_gradient, c)


ring = lambda **how: st.of(st.ring_of(**how), st.empty_ring)
ring_step = st.stepwise(st.ring_of())
zeros = lambda n: lambda c: (c, jnp.zeros((len(c["a"]), n, st.WIDTH)))

WRONG = {
    # law, what the message must say, the module
    "forgets between chunks": (
        "chunking", over(lambda r, c, x, v: (c, r(st.no_sum(len(x)), x, v)[1]))
    ),
    "odd chunks": ("chunking", over(chunks(lambda n: n > 1 and n % 2))),
    "chunks of 3": ("chunking", over(chunks(lambda n: n == 3))),
    "chunks beyond 11": ("chunking", over(chunks(lambda n: n > 11))),
    "chunks beyond 64": ("chunking", over(chunks(lambda n: n > 64))),
    "single frames": ("scan", over(chunks(lambda n: n == 1))),
    "sees the next frame": ("causality", over(leaks(rolled))),
    "sees it past the gradient": (
        "causality", over(leaks(lambda x: jax.lax.stop_gradient(rolled(x))))
    ),
    "sees its sign": ("causality", over(leaks(lambda x: jnp.sign(rolled(x))))),
    "sees the next token": (
        "causality",
        over(
            leaks(lambda x: 0.1 * rolled(x)[..., None]),
            right=st.stepwise(st.read), make_input=st.tokens,
        ),
    ),
    "gradient without number": (
        "causality", over(leaks(lambda x: jnp.sqrt(x[..., :1] - x[..., :1])))
    ),
    "depends on nothing": ("causality", over(outputs(lambda y, *_: 0 * y))),
    "mean of the batch": (
        "slots", over(outputs(lambda y, *_: y + 1e-6 * y.mean(axis=0, keepdims=True)))
    ),
    "place in the batch": (
        "slots", over(outputs(lambda y, *_: y + 0.01 * jnp.arange(len(y))[:, None, None]))
    ),
    "a batch of one": ("slots", over(outputs(lambda y, *_: y + 0.1 if len(y) == 1 else y))),
    "flush of stream 0": (
        "slots", st.late(lambda c: (c, jnp.repeat(st.both(c)[1][:1], len(c["a"]), axis=0)))
    ),
    "flush of the neighbour": ("slots", st.late(lambda c: (c, jnp.roll(st.both(c)[1], 1, axis=0)))),
    "flush lost": ("latency", st.late(zeros(2))),
    "flush lost its last": ("latency", st.late(lambda c: (c, st.both(c)[1].at[:, 1].set(0)))),
    "flush swapped": ("latency", st.late(lambda c: (c, st.both(c)[1][:, ::-1]))),
    "flush too long": ("latency", st.late(zeros(3))),
    "flush of another type": ("latency", st.late(lambda c: (c, st.both(c)[1].astype(jnp.int32)))),
    "flush of another tree": ("latency", st.late(lambda c: (c, {"y": st.both(c)[1]}))),
    "flush forgets the past": (
        "latency", st.late(lambda c: (c, c["b"][:, None]), 1, st.ahead)
    ),
    "flush widens the carry": ("latency", st.late(lambda c: ((c, c), st.both(c)[1]))),
    "no flush": ("latency", st.late(None)),
    "latency understated": ("latency", st.late(None, 0)),
    "latency understated by one": ("latency", st.late(lambda c: (c, c["b"][:, None]), 1)),
    "latency overstated": ("latency", st.late(st.both, 2, lambda c, x: ({"a": c["b"], "b": x}, x))),
    "latency 0 with a flush": ("latency", st.late(st.both, 0, lambda c, x: ({**c, "b": x}, x))),
    "counts in 8 bits": (
        "year", st.of(st.ring_of(), lambda b: st.empty_ring(b, jnp.int8))
    ),
    "counts in 16 bits": (
        "year", st.of(st.ring_of(), lambda b: st.empty_ring(b, jnp.int16))
    ),
    "counts in float": (
        "year", st.of(st.ring_of(lambda n: n.astype(jnp.int32) % 3),
                      lambda b: st.empty_ring(b, jnp.float32))
    ),
    "time in the answer": (
        "year",
        st.of(
            frame_of(lambda c, x, n, y: (n, y + 1e-3 * jnp.sin(0.1 * c["count"])[:, None])),
            st.no_sum,
        ),
    ),
    "count overflows": (
        "year",
        st.of(
            frame_of(lambda c, x, n, y: (n, y * (c["count"] * 1000 >= 0)[:, None])),
            st.no_sum,
        ),
    ),
    "count through float": (
        "year", ring(slot=lambda n: n.astype(jnp.float32).astype(jnp.int32) % st.RING)
    ),
    "counter stops at 40": ("endurance", ring(go_on=lambda n: jnp.minimum(n + 1, 40))),
    "counter stops at 200": ("endurance", ring(go_on=lambda n: jnp.minimum(n + 1, 200))),
    "counter wraps at 100": ("endurance", ring(go_on=lambda n: (n + 1) % 100)),
    "counter wraps as 8 bits": (
        "endurance", ring(go_on=lambda n: (n + 1).astype(jnp.int8).astype(jnp.int32))
    ),
    "forgets after 128": (
        "endurance", later(128, lambda c, x, n, y: ({**n, "sum": 0 * y}, y))
    ),
    "stands still after 150": (
        "endurance", later(150, lambda c, x, n, y: ({**n, "sum": c["sum"]}, c["sum"]))
    ),
    "no number after 200": ("endurance", later(200, lambda c, x, n, y: (n, y / (0 * y)))),
    "chunks after 100 frames": ("endurance", over(late_chunk)),
    "a gap's NaN": ("gaps", over(leaks(lambda x: 0 * x))),
    "gaps as zeros": ("gaps", over(gaps_as_zeros)),
    "the last gap of a chunk": ("gaps", over(gap_lets_the_last_in)),
    "counts gaps": (
        "gaps", over(carries(lambda n, c, x, v: {**n, "count": c["count"] + x.shape[1]}))
    ),
    "gaps among tokens": (
        "gaps", over(gaps_as_zeros, right=st.stepwise(st.read), make_input=st.tokens)
    ),
    "valid changes the answer": (
        "gaps", over(outputs(lambda y, n, x, v: y if v is None else 1.01 * y))
    ),
    "carry grows": (
        "fixed point", over(carries(lambda n, *_: {**n, "sum": jnp.tile(n["sum"], (1, 2))}))
    ),
    "carry widens": (
        "fixed point", over(carries(lambda n, *_: {**n, "count": n["count"].astype(jnp.float32)}))
    ),
    "carry gains a leaf": ("fixed point", over(carries(lambda n, *_: {**n, "new": n["sum"]}))),
    "carry of the frames' type": (
        "fixed point",
        over(carries(lambda n, c, x, v: {**n, "sum": n["sum"].astype(x.dtype)})),
    ),
    "no batch in front": (
        "fixed point", over(lambda r, c, x, v: (c, x), lambda b: {"sum": jnp.zeros((4, b))})
    ),
    "a first carry at random": ("fixed point", over(lambda r, *a: r(*a), Restless())),
    "unsigned": ("fixed point", st.of(st.ring_of(), lambda b: st.empty_ring(b, jnp.uint8))),
    "no time in the outputs": ("fixed point", over(outputs(lambda y, *_: y[:, -1]))),
    "another type for a chunk": (
        "fixed point",
        over(outputs(lambda y, n, x, v: y.astype(jnp.bfloat16) if x.shape[1] > 1 else y)),
    ),
    "gradient stops between chunks": ("gradients", over(lambda r, c, x, v: r(stopped(c), x, v))),
    "and for tokens": (
        "gradients",
        over(
            lambda r, c, x, v: r(stopped(c) if x.shape[1] == 1 else c, x, v),
            right=st.stepwise(st.read), make_input=st.tokens,
        ),
    ),
    "writes into the carry": ("peek", over(writes)),
    "state outside the carry": ("peek", over(Hidden())),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_module_is_caught_by_its_law(name):
    law, subject = WRONG[name]
    with pytest.raises(AssertionError, match=f"^{law}") as caught:
        getattr(contract, f"check_{law.replace(' ', '_')}")(subject)
    print(caught.value)


@pytest.mark.parametrize("name", ["flush swapped", "counter wraps at 100", "sees its sign"])
def test_verify_contract_runs_that_law(name):
    law, subject = WRONG[name]
    with pytest.raises(AssertionError, match=f"^{law}"):
        verify_contract(subject)


def test_the_message_names_law_leaf_and_sizes():
    with pytest.raises(AssertionError, match=r"^chunking.*11 .*output.*\[2, 11, 4\].*\[0, 1, 0\]"):
        contract.check_chunking(WRONG["single frames"][1])
    with pytest.raises(AssertionError, match=r"year: \['count'\] \[1\] counts frames in int8"):
        contract.check_year(WRONG["counts in 8 bits"][1])
    with pytest.raises(AssertionError, match=r"output of frame 100 .* frame 99"):
        contract.check_endurance(WRONG["counter wraps at 100"][1])


def test_a_module_without_latency_is_immediate_and_without_carry_is_named():
    class Bare:
        def init_carry(self, batch):
            return st.no_sum(batch)

        def apply(self, variables, carry, x, valid):
            return st.stepwise(st.add)(carry, x, valid)

    contract.check_latency(Subject.of(Bare(), {}, st.frames))
    with pytest.raises(TypeError, match=r"object has no init_carry\(batch\).*init_carry="):
        Subject.of(object(), {}, st.frames)


def test_what_the_module_raises_is_told_with_its_law():
    def refuses(right, c, x, v):
        if v is not None:
            raise TypeError("takes 3 arguments")
        return right(c, x, v)

    with pytest.raises(AssertionError, match="^gaps: the module raised TypeError: takes 3"):
        verify_contract(over(refuses), [contract.check_gaps])


def test_the_first_carry_stays_as_it_was():
    """No law may write into what the module gave."""
    kept = st.no_sum(2)
    before = jax.tree.map(np.array, kept)
    contract.check_slots(over(lambda r, *a: r(*a)))
    jax.tree.map(np.testing.assert_array_equal, kept, before)
