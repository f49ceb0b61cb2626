"""EfficientNet-Lite: the published layout in torch, converted, gives the same numbers here."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.zoo.encode import EfficientNetLite, EfficientNetLiteConfig
from streamzoo.zoo.encode.efficientnet.convert import EPS, from_torch
from streamzoo.zoo.encode.efficientnet.model import (
    LITE0,
    Stage,
    conv,
    depthwise,
    pyramid_width,
)
from streamzoo.zoo.errors import WeightsError

# All that LITE0 has: both kernels, both strides, with and without widening, residuals.
STAGES = (
    Stage(3, 1, 8, 1, 1),
    Stage(3, 2, 8, 6, 2),
    Stage(5, 2, 12, 6, 2),
    Stage(5, 1, 16, 6, 1),
    Stage(3, 1, 20, 6, 2),
)
TINY = EfficientNetLiteConfig((32, 32), stem=8, stages=STAGES, head=24, num_classes=10)


def published(config, seed=0):
    """Random tensors under the names of the published state dict."""
    rng = np.random.default_rng(seed)
    found = {}

    def layer(name, norm, out, inside, kernel):
        fan = inside * kernel * kernel
        found[f"{name}.weight"] = rng.normal(size=(out, inside, kernel, kernel)) * fan**-0.5
        found[f"{norm}.weight"] = rng.uniform(0.5, 1.5, out)
        found[f"{norm}.bias"] = 0.3 * rng.normal(size=out)
        found[f"{norm}.running_mean"] = 0.3 * rng.normal(size=out)
        found[f"{norm}.running_var"] = rng.uniform(0.3, 1.5, out)
        found[f"{norm}.num_batches_tracked"] = np.asarray(7)

    layer("_conv_stem", "_bn0", config.stem, 3, 3)
    number, inside = 0, config.stem
    for stage in config.stages:
        for _ in range(stage.repeats):
            name, middle = f"_blocks.{number}", inside * stage.expand
            if stage.expand != 1:
                layer(f"{name}._expand_conv", f"{name}._bn0", middle, inside, 1)
            layer(f"{name}._depthwise_conv", f"{name}._bn1", middle, 1, stage.kernel)
            layer(f"{name}._project_conv", f"{name}._bn2", stage.width, middle, 1)
            number, inside = number + 1, stage.width
    layer("_conv_head", "_bn1", config.head, inside, 1)
    found["_fc.weight"] = rng.normal(size=(config.num_classes, config.head)) * 0.1
    found["_fc.bias"] = rng.normal(size=config.num_classes)
    return {n: np.asarray(a, np.float32 if a.ndim else np.int64) for n, a in found.items()}


def in_torch(tensors, config, frames):
    """(logits, the head's map, every block's map) of the published network, in evaluation mode."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    w = {n: torch.from_numpy(np.asarray(a)) for n, a in tensors.items()}

    def convolve(x, name, norm, stride=1, groups=1):
        kernel = w[f"{name}.weight"]
        pads = []
        for size in (x.shape[-1], x.shape[-2]):  # TF's SAME: what is odd goes to the far side
            total = max((-(-size // stride) - 1) * stride + kernel.shape[-1] - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), kernel, None, stride, groups=groups)
        stats = (w[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *stats, eps=EPS)

    with torch.no_grad():
        x = torch.from_numpy(frames).permute(0, 3, 1, 2)
        x, maps, number = F.relu6(convolve(x, "_conv_stem", "_bn0", 2)), [], 0
        for stage in config.stages:
            for i in range(stage.repeats):
                name, before = f"_blocks.{number}", x
                if stage.expand != 1:
                    x = F.relu6(convolve(x, f"{name}._expand_conv", f"{name}._bn0"))
                stride = stage.stride if i == 0 else 1
                depth = f"{name}._depthwise_conv"
                x = F.relu6(convolve(x, depth, f"{name}._bn1", stride, x.shape[1]))
                x = convolve(x, f"{name}._project_conv", f"{name}._bn2")
                x = x + before if x.shape == before.shape else x
                maps.append(x.permute(0, 2, 3, 1).numpy())
                number += 1
        x = F.relu6(convolve(x, "_conv_head", "_bn1"))
        logits = F.linear(x.mean((2, 3)), w["_fc.weight"], w["_fc.bias"])
        return logits.numpy(), x.permute(0, 2, 3, 1).numpy(), maps


# the second size is odd at every level: padding is then lopsided everywhere
@pytest.mark.parametrize("size", [(32, 64), (50, 39)])
def test_a_converted_checkpoint_gives_the_same_features_and_classes(size):
    tensors = published(TINY)
    frames = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    logits, head, maps = in_torch(tensors, TINY, frames)
    model, variables = EfficientNetLite(TINY), from_torch(tensors, TINY)
    got = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    for mine, theirs in zip(got(variables, frames), (logits, head), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    if size != (32, 64):
        return
    # the pyramid: the last map, and the finer one before it, four of its cells to one
    coarse, fine = maps[-1], maps[-2]
    got: Any = model.apply(variables, frames, method="pyramid")
    assert got.shape == (2, *coarse.shape[1:3], pyramid_width(TINY)) == (2, 2, 4, 4 * 16 + 20)
    for row in range(2):
        for col in range(4):
            cells = [fine[:, 2 * row + i, 2 * col + j] for i in (0, 1) for j in (0, 1)]
            want = np.concatenate([*cells, coarse[:, row, col]], axis=-1)
            np.testing.assert_allclose(got[:, row, col], want, atol=1e-4)


def test_tensors_that_are_missing_or_left_over_are_named():
    tensors = published(TINY)
    short = {n: a for n, a in tensors.items() if n != "_blocks.3._bn1.running_var"}
    with pytest.raises(WeightsError, match="_blocks.3._bn1.running_var is missing"):
        from_torch(short, TINY)
    with pytest.raises(WeightsError, match="_blocks.7._se_reduce.weight"):
        from_torch(tensors | {"_blocks.7._se_reduce.weight": np.ones(3)}, TINY)
    with pytest.raises(WeightsError, match="no place for"):  # of a deeper variant
        from_torch(tensors, EfficientNetLiteConfig((32, 32), 8, STAGES[:-1], 24, 10))


def test_an_encoder_without_classifier_leaves_its_weights_out():
    config = EfficientNetLiteConfig((32, 32), 8, STAGES, head=0, num_classes=0)
    variables = from_torch(published(TINY), config)
    assert not {"head_kernel", "head_bias", "fc"} & set(variables["params"])
    model = EfficientNetLite(config)
    frames = jnp.ones((1, 32, 32, 3))
    assert model.apply(variables, frames, method="pyramid").shape == (1, 2, 2, 84)
    with pytest.raises(ValueError, match="no classifier"):
        model.apply(variables, frames)


@pytest.mark.parametrize("kernel,stride,size", [(3, 1, (7, 8)), (3, 2, (8, 7)), (5, 2, (9, 6))])
def test_shifted_sums_are_the_grouped_convolution(kernel, stride, size):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *size, 6))
    filters = jax.random.normal(keys[1], (kernel, kernel, 1, 6))
    bias = jax.random.normal(keys[2], (6,))
    want = conv(x, filters, bias, stride, groups=6)
    got = depthwise(x, filters, bias, stride)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_leading_axes_are_a_batch():
    model, variables = EfficientNetLite(TINY), from_torch(published(TINY), TINY)
    x = jax.random.normal(jax.random.key(0), (2, 3, 32, 32, 3))
    got = model.apply(variables, x, method="pyramid")
    want = model.apply(variables, x.reshape(6, 32, 32, 3), method="pyramid")
    np.testing.assert_array_equal(got.reshape(want.shape), want)


@pytest.mark.slow
def test_the_bundled_encoder_is_what_its_card_says():
    name = "efficientnet-lite0/imagenet"
    card = zoo.model_card(name)
    assert not card.streaming and not card.multi_label and card.input_size == (224, 224)
    assert card.licence == "Apache-2.0" and "ImageNet" in card.trained_on
    # (x - 127) / 128 on 0 to 255
    pixels = np.asarray([[[[0, 127, 255]]]], np.uint8)
    np.testing.assert_allclose(zoo.preprocess(pixels, card).ravel(), [-127 / 128, 0, 1], atol=1e-6)
    model, variables = zoo.load(name)
    assert model.config.stages == LITE0
    count = sum(a.size for a in jax.tree.leaves(variables))
    assert 4.5e6 < count < 4.8e6
    rows = np.arange(64 * 96 * 3).reshape(1, 64, 96, 3) % 251
    logits = np.asarray(model.apply(variables, zoo.preprocess(rows.astype(np.uint8), card)))
    assert logits.shape == (1, 1000) and np.isfinite(logits).all()
    assert logits.std() > 0.3  # an answer, not a constant
