"""MoViNet-Stream: equal to the published graph with its 43 states, and the carry law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model, model_config
from streamzoo.zoo.action.movinet.model import MoViNetConfig, Stage
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.registry import apply_overrides
from streamzoo.zoo.weights import shapes_of
from tests.parity import golden_movinet as golden

from .drawn import drawn

pytest.importorskip("tflite", reason="the reader of TensorFlow Lite files is not installed")
needs_file = pytest.mark.skipif(
    not golden.FILE.is_file(), reason=f"{golden.FILE.name} is not beside the tree"
)


@functools.cache
def published():
    plan, params = convert_checkpoint(golden.FILE)
    return create_model(plan.model, **plan.overrides), params


@needs_file
@pytest.mark.parametrize(
    "steps", [(1, 1, 1, 1, 1, 1), pytest.param((4, 2), marks=pytest.mark.slow)], ids=str
)
def test_answers_and_states_are_those_of_the_published_graph(steps):
    pytest.importorskip("ai_edge_litert", reason="the runtime of the graph is not installed")
    model, params = published()
    x = np.random.default_rng(0).uniform(size=(6, 172, 172, 3)).astype(np.float32)
    x[3:] *= 0.2  # the means of before differ from what comes
    data = golden.with_float_weights(golden.FILE.read_bytes())
    want = list(golden.answers(data, x))
    carry, at, logits = model.init_carry(1), 0, []
    for n in steps:
        carry, out = jax.jit(model.apply)(params, carry, x[None, at : at + n])
        at += n
        logits.append(np.asarray(out.logits[0]))
    np.testing.assert_allclose(np.concatenate(logits), [log for log, _ in want], atol=1e-4)
    differences = golden.state_differences(model.config, carry, want[-1][1])
    assert len(differences) == 43 and max(differences.values()) < 1e-4, differences


@needs_file
def test_a_file_is_recognised_and_a_broken_one_is_refused(tmp_path):
    plan, _ = convert_checkpoint(golden.FILE)
    assert (plan.model, dict(plan.overrides)) == ("movinet-a0", {"num_classes": 7})
    data, broken = golden.FILE.read_bytes(), tmp_path / "a.tflite"
    for content in (b"", data[:100], data[:-1]):
        broken.write_bytes(content)
        with pytest.raises(WeightsError, match="TensorFlow Lite file"):
            convert_checkpoint(broken)
    broken.write_bytes(data.replace(b"bneck/rezero/mul", b"bneck/rezero/mol"))
    with pytest.raises(ConvertError, match="scale"):
        convert_checkpoint(broken)


@pytest.mark.slow
def test_sizes_are_those_published():
    """With 600 classes and norms folded, counted in the PyTorch port (Atze00/MoViNet-pytorch)."""
    count = lambda name: sum(a.size for a in jax.tree.leaves(shapes_of(name)))
    assert [count(f"movinet-{size}") for size in ("a0", "a1", "a2")] == [3739055, 6430248, 7307418]


def test_a_config_from_json_is_the_config():
    config = model_config("movinet-a0")
    again = [
        [s.width, list(s.expands), [list(k) for k in s.kernels], s.stride] for s in config.stages
    ]
    assert apply_overrides(config, {"stages": again}, "movinet-a0") == config
    with pytest.raises(ValueError, match="as many kernels"):
        MoViNetConfig(stages=(Stage(8, (8, 8), ((1, 3),)),))


TINY = dict(
    image_size=(12, 10), stem=4, top=8, hidden=8, num_classes=3,
    stages=(Stage(4, (8,), ((1, 5),)), Stage(6, (8, 10), ((5, 3), (3, 3)), 1)),
)  # fmt: skip


@functools.cache
def subject():
    model = create_model("movinet-a0", **TINY)
    params = drawn("movinet-a0", 0.4, mean=0.1, **TINY)
    frames = lambda seed, batch, steps: jax.random.uniform(
        jax.random.key(seed), (batch, steps, 12, 10, 3)
    )
    return Subject.of(model, params, frames)


FAST = (contract.check_slots, contract.check_fixed_point)
# The count of frames is the weight of what was seen: moved on by a year it must change the answer.
LAWS = [law for law in contract.LAWS if law is not contract.check_year]


@pytest.mark.parametrize(
    "law", [pytest.param(w, marks=[pytest.mark.slow] * (w not in FAST)) for w in LAWS]
)
def test_carry_law(law):
    law(subject())


def test_a_carry_of_another_size_is_named():
    model = create_model("movinet-a0", **TINY)
    other = model.init_carry(1, (40, 40))
    with pytest.raises(ValueError, match="frame_shape"):
        jax.eval_shape(model.init, jax.random.key(0), other, jnp.zeros((1, 1, 12, 10, 3)))
