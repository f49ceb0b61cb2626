"""TAEHV and TAEF2: equal to their authors', as a stream and with real weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.streaming import cli
from streamzoo.zoo.convert import convert, convert_checkpoint, detect_converter
from streamzoo.zoo.generate.taef2.model import TAEF2Config
from streamzoo.zoo.generate.taehv.model import TAEHV, TAEHVConfig, in_fours

from ...layers.compare import close
from .goldens import SHARED, golden, needs_goldens, weights

REAL = SHARED / "data/weights/taef2_f8c32_fp16.safetensors"
last = lambda x: np.moveaxis(x, 2, -1)  # [B, T, C, H, W] -> [B, T, H, W, C]


def taehv():
    """(the golden's arrays, our module, its parameters)."""
    z = golden("taehv_stream")
    tensors = weights(z)
    plan = detect_converter(tensors).plan(tensors, None)
    model = TAEHV(TAEHVConfig((16, 16), **plan.overrides))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1, 2, 2, 4)))
    )
    return z, model, convert(tensors, plan.rules, template=shapes)


@needs_goldens
def test_taehv_decodes_as_officially_latent_by_latent():
    z, model, params = taehv()
    assert model.config.widths == tuple(z["meta"]["widths"])
    step, carry, pictures = jax.jit(model.apply), model.init_carry(1), []
    for t in range(4):
        carry, out = step(params, carry, last(z["z"])[:, t : t + 1])
        pictures.append(out.video())
    assert [len(p) for p in pictures] == z["decode_emits"].tolist()
    close("frames", np.concatenate(pictures), last(z["y"])[0], 1e-5)
    close("the official stream", np.concatenate(pictures), last(z["stream_y"])[0], 1e-5)


@needs_goldens
def test_taehv_encodes_as_officially():
    z, model, params = taehv()
    groups = in_fours(jnp.asarray(last(z["x"])))
    encode = jax.jit(lambda *a: model.apply(*a, method="encode"))
    carry, first = encode(params, model.init_encoder_carry(1), groups[:, :2])
    _, rest = encode(params, carry, groups[:, 2:])
    close("latents", np.concatenate([first, rest], axis=1), last(z["z"]), 1e-5)


@needs_goldens
@pytest.mark.skipif(not REAL.is_file(), reason="TAEF2's weights are not here")
def test_taef2_with_its_real_weights():
    z = golden("taef2_frame")
    plan, params = convert_checkpoint(REAL)
    model = zoo.create_model(plan.model, **{**plan.overrides, "image_size": (72, 96)})
    frames = z["frame_uint8"][None, None].astype(np.float32) / 255
    latent = jax.jit(lambda x: model.apply(params, x, method="encode"))(frames)
    close("latent", latent[0, 0], np.moveaxis(z["latent"][0], 0, -1), 2e-5)
    again = jax.jit(lambda x: model.apply(params, x, method="decode"))(latent)
    close("frame", again[0, 0], np.moveaxis(z["recon"][0], 0, -1), 2e-5)
    error = np.square(np.asarray(again[0, 0]) - frames[0, 0]).mean()
    assert -10 * np.log10(error) > 27  # dB, of a street's frame at 96 x 72
    assert np.asarray(again).max() > 1 or np.asarray(again).min() < 0  # not cut


@pytest.mark.skipif(not REAL.is_file(), reason="TAEF2's weights are not here")
def test_taef2_is_converted_to_a_file_that_loads_and_says_so_before(tmp_path):
    with pytest.raises(zoo.WeightsError, match="looks like taef2 .*`streamzoo convert` reads it"):
        zoo.load(REAL)
    with pytest.raises(zoo.WeightsError, match="architecture without weights; load a file"):
        zoo.load("taef2")
    ours = tmp_path / "taef2.safetensors"
    assert cli.main(["convert", str(REAL), "--out", str(ours)]) == 0
    _, params, card = zoo.resolve(ours)
    assert (card.task, card.licence) == ("generate", "MIT")
    _, want = convert_checkpoint(REAL)
    jax.tree.map(np.testing.assert_array_equal, params, want)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="8 does not divide"):
        TAEF2Config(image_size=(70, 96))
    with pytest.raises(ValueError, match="8 does not divide"):
        TAEHVConfig(image_size=(20, 16))
    with pytest.raises(ValueError, match="four widths"):
        TAEHVConfig(widths=(8, 8))
