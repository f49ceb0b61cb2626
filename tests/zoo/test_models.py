"""Laws over every registered name: it can be built, and if it streams it obeys the carry law."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model, init_params, list_models, model_card, model_config
from streamzoo.zoo.weights import shapes_of

from . import parameter_trees

# Trackers and MoViNet have laws of their own: tests/zoo/test_track.py, test_movinet.py
STREAMING = [
    name
    for name in list_models(streaming=True)
    if hasattr(model_config(name), "num_classes") and not name.startswith("movinet")
]
# Sizes of one architecture differ in width and depth only: the tiny form stands for all of them.
ARCHS = sorted({name.split("/")[0].rsplit("-", 1)[0] for name in STREAMING})


def tiny(arch, **overrides) -> Any:
    """The smallest form of an architecture, with the structure it is registered with."""
    # heads of some mixers follow from the width: those of a narrow member fit the tiny one
    name = next(n for n in STREAMING if n.split("/")[0] in (f"{arch}-mi16", f"{arch}-ti16"))
    config = model_config(name)
    shape = dict(image_size=(32, 48), dim=64, num_classes=5)
    if hasattr(config, "temporal"):
        # two repeats of the pattern; of a long one once, as rounding grows with depth
        repeats = 2 if len(config.temporal) < 4 else 1
        shape |= dict(depth=repeats * len(config.temporal), heads_per_block=2)
        # The heads have no memory: one architecture stands for all.
        shape |= dict(heads=("frame", "roi", "person") if arch == "tsa" else ("frame",))
        shape |= dict(max_boxes=3, person_threshold=0.0)
    else:
        shape |= dict(depth=2, heads=2, frames=4)
    model, params = init_params(name, **{**shape, **overrides})
    # Move everything off its initial value: zero biases and gates near 0 hide mistakes.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    leaves = [a + 0.05 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, leaves)


def frames(seed, batch, steps, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 32, 48, 3), dtype)


@functools.cache
def subject(arch):
    model, params = tiny(arch)
    return Subject.of(model, params, frames)


def distinct():
    """Every name but tags that have their architecture's config; one of each family at once, the
    rest and the trackers, which are slow to trace, in the slow part."""
    seen = set()
    for name in list_models():
        arch = name.split("/")[0]
        if name == arch or model_config(name) != model_config(arch):
            family = arch.split("-")[0]
            slow = family in seen or model_card(name).streaming and name not in STREAMING
            seen.add(family)
            yield pytest.param(name, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("name", [*distinct()])
def test_every_name_can_be_built(name):
    model: Any = create_model(name)
    shapes = shapes_of(name)
    least = 4e4 if model_card(name).task in ("speech", "generate", "describe") else 5e5
    least = 2e5 if name.startswith("connector-") else least  # two layers between two networks
    assert sum(a.size for a in jax.tree.leaves(shapes)) > least
    # a new name adds its line: python -m tests.zoo.parameter_trees
    assert parameter_trees.digest(shapes) == parameter_trees.golden().get(name)
    card = model_card(name)
    if not card.streaming or card.task in ("speech", "text"):  # test_speech.py, test_decoder.py
        return
    size = model.config.image_size
    carry = jax.eval_shape(lambda: model.init_carry(2))
    x = jax.ShapeDtypeStruct((2, 1, *size, 3), jnp.float32)
    if model.inputs[0] == "latents":
        x = jax.ShapeDtypeStruct((2, 1, *model.config.grid, model.config.latent), jnp.float32)
    after, out = jax.eval_shape(model.apply, shapes, carry, x)
    assert contract.signature(after) == contract.signature(carry)
    assert all(shape[0] == 2 for _, shape, _ in contract.signature(carry))
    if name not in STREAMING:
        assert all(a.shape[:2] == (2, 1) for a in jax.tree.leaves(out))
        return
    answers = [a for a in (out.logits, out.box_logits) if a is not None]
    assert answers and all(a.shape[:2] == (2, 1) for a in answers)
    assert all(a.shape[-1] == model.config.num_classes for a in answers)


# One worker per architecture, so that its programs are compiled once.
# These are minutes of compiling, of parts that other architectures and the mixers cover.
GROUPED = [
    pytest.param(
        arch,
        marks=[
            pytest.mark.group(f"arch {arch}"),
            *[pytest.mark.slow] * (arch not in ("tsa", "dsta", "swa")),
        ],
    )
    for arch in ARCHS
]


# gradients are long to compile, hundreds of frames to run
LONG = (contract.check_gradients, contract.check_endurance, contract.check_year)
LAWS = [pytest.param(law, marks=[pytest.mark.slow] * (law in LONG)) for law in contract.LAWS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("arch", GROUPED)
def test_carry_law(arch, law):
    law(subject(arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", GROUPED)
def test_carry_law_in_bfloat16(arch):
    """bf16 compute, fp32 state: chunking and gaps to 0.06 of max(1, |value|)."""
    model, params = tiny(arch, dtype="bfloat16")

    def step(carry, x, valid):  # the boxes a detector picks jump at ties: compare what is smooth
        carry, out = model.apply(params, carry, x, valid)
        return carry, (out.logits, out.person) if out.logits is not None else out.box_logits

    s = Subject(model.init_carry, step, frames, atol=0.06)
    contract.check_chunking(s, seeds=3)
    contract.check_gaps(s, seeds=1)
    contract.check_fixed_point(s)


@pytest.mark.slow
def test_outputs_keep_their_types_with_gaps():
    model, params = tiny("tsa")
    x = frames(0, 2, 3)
    valid = jnp.asarray([[True, False, True], [True, True, True]])
    plain = model.apply(params, model.init_carry(2), x)[1]
    gaps = model.apply(params, model.init_carry(2), x, valid)[1]
    assert jax.tree.map(lambda a: a.dtype, plain) == jax.tree.map(lambda a: a.dtype, gaps)
    assert gaps.box_valid.dtype == bool and not gaps.box_valid[0, 1].any()


@pytest.mark.parametrize("arch", ["swa", "videomae-window"])
def test_a_year_of_frames(arch):
    contract.check_year(subject(arch), warm=40)


@pytest.mark.parametrize("arch", ["tsa", "dsta", "swa"])
def test_carry_bytes_at_frame_10_and_10_000(arch):
    model, params = tiny(arch, image_size=(16, 16), heads=("frame",))
    clip = jax.random.normal(jax.random.key(0), (1, 100, 16, 16, 3))
    step = jax.jit(lambda c, x: model.apply(params, c, x))
    sizes = []
    carry = step(model.init_carry(1), clip[:, :10])[0]
    sizes.append(contract.carry_bytes(carry))
    carry, out = step(carry, clip)
    for _ in range(99):
        carry, out = step(carry, clip)
    sizes.append(contract.carry_bytes(carry))
    assert sizes[0] == sizes[1]
    assert bool(jnp.isfinite(out.logits).all())


@pytest.mark.slow
def test_the_past_matters_to_every_student_but_the_one_without_memory():
    for arch in ARCHS:
        model, params = tiny(arch)
        step = jax.jit(model.apply)
        past, other, now = frames(1, 1, 4), frames(2, 1, 4), frames(3, 1, 1)
        answers = []
        for before in (past, other):
            carry, _ = step(params, model.init_carry(1), before)
            _, out = step(params, carry, now)
            answers.append(out.logits if out.logits is not None else out.box_logits)
        gap = float(jnp.abs(answers[0] - answers[1]).max())
        assert (gap == 0) == (arch == "vit"), f"{arch}: {gap}"


def test_boxes_from_outside_replace_the_person_head():
    model, params = tiny("tsa")
    boxes = jnp.broadcast_to(jnp.array([[0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]]), (1, 2, 2, 4))
    valid = jnp.array([[[True, False], [True, True]]])
    _, out = model.apply(params, model.init_carry(1), frames(0, 1, 2), boxes=boxes, box_valid=valid)
    assert out.box_logits.shape == (1, 2, 2, 5)
    np.testing.assert_array_equal(out.boxes, boxes)
    assert float(jnp.abs(out.box_logits[0, 0, 1]).max()) == 0  # a box that does not exist
    with pytest.raises(ValueError, match=r"boxes \(1, 2, 4\)"):
        model.apply(params, model.init_carry(1), frames(0, 1, 2), boxes=boxes[:, :, 0])


@pytest.mark.slow
def test_taps_come_stacked_over_depth_and_change_nothing():
    model, params = tiny("tsa")
    x = frames(0, 2, 3)
    _, plain = model.apply(params, model.init_carry(2), x)
    names = ("attention", "hidden", "features", "roi")
    _, out = model.apply(params, model.init_carry(2), x, taps=names)
    depth, tokens = model.config.depth, 6
    assert plain.taps is None
    assert out.taps["attention"].shape == (depth, 2, 3, 2, tokens, tokens)
    assert out.taps["hidden"].shape == (depth, 2, 3, tokens, 64)
    assert out.taps["features"].shape == (2, 3, 2, 3, 64)
    assert out.taps["roi"].shape == (2, 3, 3, 64)
    np.testing.assert_allclose(out.taps["attention"].sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(out.logits, plain.logits, atol=1e-5)
    with pytest.raises(ValueError, match="unknown tap 'atention'.*attention"):
        model.apply(params, model.init_carry(2), x, taps=("atention",))


def test_a_model_runs_at_another_resolution():
    """Learned positions are interpolated; the carry is made for the frames that come."""
    model, params = tiny("tsa")
    x = jax.random.normal(jax.random.key(0), (1, 2, 64, 64, 3))
    carry, out = jax.jit(model.apply)(params, model.init_carry(1, (64, 64)), x)
    assert out.logits.shape == (1, 2, 5)
    assert contract.signature(carry) == contract.signature(model.init_carry(1, (64, 64)))
