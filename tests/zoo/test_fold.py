"""Batch norms folded into what stands beside them, by their definition."""

import numpy as np
import pytest

from streamzoo.zoo.convert import ConvertError
from streamzoo.zoo.encode.fold import EPS
from streamzoo.zoo.encode.repvit.convert import fold, sizes
from streamzoo.zoo.encode.repvit.model import RepViTConfig, squeezed_width

RNG = np.random.default_rng(0)


def norm(name, width):
    tensors = {f"{name}.{part}": RNG.normal(size=width) for part in ("weight", "bias")}
    tensors[f"{name}.running_mean"] = RNG.normal(size=width)
    tensors[f"{name}.running_var"] = RNG.uniform(0.5, 2, width)
    return tensors | {f"{name}.num_batches_tracked": np.asarray(3)}


def normed(x, tensors, name):
    """x [..., C] through the batch norm of a name."""
    mean, var = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    return (x - mean) / np.sqrt(var + EPS) * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def depthwise(x, weight):
    """x [5, 5, C] -> the middle cell [C]; weight [C, 1, k, k]."""
    side = weight.shape[-1]
    start = 2 - side // 2
    return np.einsum("hwc,chw->c", x[start : start + side, start : start + side], weight[:, 0])


@pytest.mark.parametrize("legacy", [True, False])
def test_three_branches_become_one_filter(legacy):
    t = "a.token_mixer."
    tensors = {f"{t}conv.c.weight": RNG.normal(size=(4, 1, 3, 3)), **norm(f"{t}conv.bn", 4)}
    small = RNG.normal(size=(4, 1, 1, 1))
    if legacy:
        tensors |= {f"{t}conv1.c.weight": small, **norm(f"{t}conv1.bn", 4)}
    else:
        tensors |= {f"{t}conv1.weight": small, f"{t}conv1.bias": RNG.normal(size=4)}
        tensors |= norm(f"{t}bn", 4)
    x = RNG.normal(size=(5, 5, 4))
    large = normed(depthwise(x, tensors[f"{t}conv.c.weight"]), tensors, f"{t}conv.bn")
    one = depthwise(x, small)
    one = normed(one, tensors, f"{t}conv1.bn") if legacy else one + tensors[f"{t}conv1.bias"]
    want = large + one + x[2, 2]
    want = want if legacy else normed(want, tensors, f"{t}bn")
    got = fold(tensors)
    assert set(got) == {f"{t}weight", f"{t}bias"}
    np.testing.assert_allclose(depthwise(x, got[f"{t}weight"]) + got[f"{t}bias"], want, atol=1e-12)


def test_two_classifiers_become_their_mean():
    tensors, x = {}, RNG.normal(size=5)
    for head in ("head.head", "head.head_dist"):
        tensors |= {f"{head}.l.weight": RNG.normal(size=(3, 5)), f"{head}.l.bias": np.ones(3)}
        tensors |= norm(f"{head}.bn", 5)
    want = [
        tensors[f"{h}.l.weight"] @ normed(x, tensors, f"{h}.bn") + 1
        for h in ("head.head", "head.head_dist")
    ]
    got = fold(tensors)
    assert set(got) == {"head.weight", "head.bias"}
    np.testing.assert_allclose(got["head.weight"] @ x + got["head.bias"], np.mean(want, 0))


def test_what_is_missing_is_named():
    tensors = {"stem.conv1.c.weight": np.ones((2, 3, 3, 3)), **norm("stem.conv1.bn", 2)}
    del tensors["stem.conv1.bn.bias"]
    with pytest.raises(ConvertError, match="stem.conv1.bn.bias missing"):
        fold(tensors)
    with pytest.raises(ConvertError, match="token_mixer.conv1.weight"):
        fold({"x.token_mixer.conv.weight": np.ones((2, 1, 3, 3))})
    with pytest.raises(ConvertError, match="is the file complete"):
        sizes({"stages.1.blocks.0.channel_mixer.conv1.c.weight": np.ones((4, 2, 1, 1))})


def test_sizes_from_the_weights():
    tensors = {}
    for stage, (width, depth) in enumerate([(6, 2), (8, 4)]):
        for block in range(depth):
            name = f"trunk.stages_{stage}.blocks.{block}.channel_mixer.conv1.c.weight"
            tensors[name] = np.ones((3 * width, width, 1, 1))
    want = dict(widths=(6, 8), depths=(2, 4), mlp_ratio=3.0)
    assert sizes(tensors, "trunk.") == want
    assert [squeezed_width(w) for w in (48, 96, 192, 384)] == [16, 24, 48, 96]
    with pytest.raises(ValueError, match="depth 3"):
        RepViTConfig(widths=(8,), depths=(3,))
