"""V-JEPA 2, VideoPrism and the models with two towers, by their shapes (parity: tests/parity)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.convert import converter_for
from streamzoo.zoo.encode import VJEPA2, VideoPrism, VideoPrismConfig, VJEPA2Config
from streamzoo.zoo.encode.dual.model import sigmoid_pair_loss, softmax_pair_loss
from streamzoo.zoo.encode.vjepa2.model import cubic_rope

DIM = 32
SMALL: dict[str, Any] = dict(dim=DIM, depth=2, heads=2, mlp_ratio=1.5, frames=4, dtype="bfloat16")


def shapes(model, *inputs, **static):
    def init(*args):
        return model.init_with_output(jax.random.key(0), *args, **static)

    return jax.eval_shape(init, *inputs)


def clip(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_vjepa2():
    model = VJEPA2(VJEPA2Config(image_size=(32, 32), **SMALL))
    out, _ = shapes(model, clip(2, 6, 48, 32, 3), taps=("hidden", "attention"))
    assert out.features.shape == (2, 3, 3, 2, DIM) and out.features.dtype == jnp.bfloat16
    assert out.taps["hidden"].shape == (2, 2, 18, DIM)
    assert out.taps["attention"].shape == (2, 2, 2, 18, 18)
    assert shapes(model, clip(2, 1, 32, 32, 3))[0].features.shape == (2, 1, 2, 2, DIM)
    with pytest.raises(ValueError, match="multiple of 2 frames"):
        shapes(model, clip(1, 3, 32, 32, 3))
    with pytest.raises(ValueError, match="even width"):
        VJEPA2Config(dim=30, heads=2)


def test_what_is_left_of_a_head_does_not_turn():
    cos, sin = cubic_rope(2, 2, 2, 16)  # three times four channels, four are left
    still = [6, 7, 14, 15]  # of either half the last two
    np.testing.assert_array_equal(sin[:, jnp.asarray(still)], 0)
    np.testing.assert_array_equal(cos[:, jnp.asarray(still)], 1)
    assert cos.shape == (8, 16) and bool((jnp.abs(sin).sum(0) > 0)[jnp.arange(6)].all())


def test_videoprism():
    model = VideoPrism(VideoPrismConfig(image_size=(36, 36), temporal_depth=1, **SMALL))
    taps = ("spatial", "temporal", "temporal_attention")
    out, variables = shapes(model, clip(2, 5, 54, 36, 3), taps=taps)
    assert out.features.shape == (2, 5, 3, 2, DIM) and out.features.dtype == jnp.bfloat16
    assert out.taps["spatial"].shape == (2, 2, 5, 6, DIM)
    assert out.taps["temporal"].shape == (1, 2, 6, 5, DIM)
    assert out.taps["temporal_attention"].shape == (1, 2, 6, 2, 5, 5)
    assert variables["params"]["places"].shape == (4, DIM)
    with pytest.raises(ValueError, match="multiples of 18"):
        shapes(model, clip(1, 4, 32, 36, 3))
    with pytest.raises(ValueError, match="spatial"):
        shapes(model, clip(1, 4, 36, 36, 3), taps=("spacial",))


def test_two_towers():
    tower = dict(dim=DIM, depth=1, heads=2)
    model = create_model(
        "siglip-dual-b16",
        image=tower | dict(image_size=(32, 32)),
        text=tower | dict(vocabulary=9, length=6, projection=DIM),
    )
    logits, _ = shapes(model, clip(3, 32, 32, 3), clip(5, 6, dtype=np.int32))
    assert logits.shape == (3, 5)
    with pytest.raises(ValueError, match="positions for 6"):
        shapes(model, clip(1, 32, 32, 3), clip(1, 7, dtype=np.int32))
    with pytest.raises(ValueError, match="token numbers"):
        shapes(model, clip(1, 32, 32, 3), clip(1, 6))


@pytest.mark.parametrize(
    "name, converter",
    [
        ("clip-dual-b32/openai", "clip-dual"),
        ("siglip2-dual-b16/webli", "siglip-dual"),
        ("clip-b32/openai", None),
    ],
)
def test_one_file_gives_a_tower_or_both(name, converter):
    assert converter_for(name) == converter
    assert model_card(name).source.startswith("hf:")


@pytest.mark.parametrize("loss", [softmax_pair_loss, sigmoid_pair_loss])
def test_losses_want_the_pairs(loss):
    good = 9.0 * jnp.eye(4) - 5
    assert loss(good) < 0.2 < 2 < loss(-good)
