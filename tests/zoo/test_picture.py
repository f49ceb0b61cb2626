"""The published picture is Pillow's, and the card says which it is."""

import copy
import json
import pickle

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import Session, Step, open_source, preprocess, zoo
from streamzoo.zoo.picture import KERNELS, picture, resize
from streamzoo.zoo.published import facts

Image = pytest.importorskip("PIL.Image")


def photo(height=60, width=97, seed=0):
    """Edges, gradients and noise."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3))
    big = np.kron(rough, np.ones((6, 6, 1), int))[:height, :width]
    return np.clip(big + rng.integers(-30, 30, big.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", sorted(KERNELS))
@pytest.mark.parametrize("size", [(60, 97), (23, 31), (120, 200), (60, 20), (7, 97)])
def test_resampling_is_pillows(name, size):
    image = photo()
    theirs = getattr(Image.Resampling, name.upper())
    want = np.asarray(Image.fromarray(image).resize(size[::-1], theirs), int)
    got = resize(image, size, name).astype(int)
    assert np.abs(got - want).max() <= 1 and (got != want).mean() < 0.02
    with pytest.raises(ValueError, match="filter 'cubic': choose from bilinear"):
        resize(image, size, "cubic")


@pytest.mark.parametrize("shape", [(60, 97), (97, 60), (64, 64)])
def test_a_crop_is_the_middle_of_the_shorter_side(shape):
    card = zoo.Card("a-b", input_size=(28, 28), fit="crop", short_side=32, filter="bicubic")
    image = photo(*shape)
    short = 32 / min(shape)
    size = [32 if n == min(shape) else int(n * short) for n in shape]
    whole = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    y, x = (size[0] - 28) // 2, (size[1] - 28) // 2
    want = np.asarray(whole.crop((x, y, x + 28, y + 28)), int)
    assert np.abs(picture(image, card).astype(int) - want).max() <= 1
    small = zoo.Card("a-b", input_size=(40, 28), fit="crop", short_side=32)
    with pytest.raises(ValueError, match="give short_side at least 40"):
        picture(photo(60, 97), small)


def test_what_is_padded_normalises_to_nothing():
    card = zoo.Card("a-b", input_size=(64, 64), fit="pad", filter="bilinear")
    made = picture(photo(30, 60), card)
    want = resize(photo(30, 60), (32, 64), "bilinear")
    np.testing.assert_array_equal(made[:32], want)
    assert np.abs(preprocess(made, card)[32:]).max() < 0.5 / 255 / 0.22
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="a picture is uint8 RGB"):
            picture(wrong, card)
    with pytest.raises(ValueError, match="fit 'zoom' is not one of stretch"):
        zoo.Card("a-b", fit="zoom")


BIT = {"do_resize": True, "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True,
       "crop_size": {"height": 224, "width": 224}}  # fmt: skip
SHOWN = {
    "dinov2": (BIT, ((224, 224), "crop", 256, "bicubic")),
    "old clip": (
        dict(size=224, resample=3, do_center_crop=True, crop_size=224),
        ((224, 224), "crop", 224, "bicubic"),
    ),
    "siglip": (
        dict(size={"height": 384, "width": 384}, resample=3),
        ((384, 384), "stretch", 0, "bicubic"),
    ),
    "sam": (
        dict(size={"longest_edge": 1024}, do_pad=True, pad_size={"height": 1024, "width": 1024},
             resample=2),
        ((1024, 1024), "pad", 0, "bilinear"),
    ),
    "vjepa2": (
        dict(size={"shortest_edge": 292}, do_center_crop=True, crop_size=256, resample=2),
        ((256, 256), "crop", 292, "bilinear"),
    ),
    "naflex": (dict(do_resize=True, resample=2, max_num_patches=256), None),
    "nothing": ({}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_a_card_reads_the_published_preprocessor(tmp_path, kind):
    shown, want = SHOWN[kind]
    name = "video_preprocessor_config.json" if kind == "vjepa2" else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(shown))
    found = facts(tmp_path / "model.safetensors", None, None)
    got = tuple(found[k] for k in ("input_size", "fit", "short_side", "filter")) if want else None
    assert got == want and (want or "fit" not in found)


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
LEVELS = {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}


@pytest.mark.parametrize(
    "shown",
    [
        {**IMAGENET, "rescale_factor": 1 / 255},
        {**IMAGENET, "rescale_factor": 0.00392156862745098, "crop_size": None, "do_pad": None},
        {**IMAGENET, "rescale_factor": None, "do_rescale": None, "do_normalize": None},
        {**LEVELS, "do_rescale": False},
        {"image_mean": [0.97, 0.912, 0.812], "image_std": [0.458, 0.448, 0.45],
         "rescale_factor": 1 / 127.5},
        {**LEVELS, "rescale_factor": 1.0},
    ],
)  # fmt: skip
def test_mean_and_std_are_of_pixels_from_0_to_1_whatever_the_file_scales_by(tmp_path, shown):
    """(factor * pixel - its mean) / its std, as the published processor computes it."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(shown))
    found = facts(tmp_path / "model.safetensors", None, None)
    np.testing.assert_allclose(found["mean"], IMAGENET["image_mean"], rtol=1e-6)
    np.testing.assert_allclose(found["std"], IMAGENET["image_std"], rtol=1e-6)


def test_pixels_that_are_only_scaled(tmp_path):
    for shown, std in (
        ({"do_normalize": False}, 1.0),
        ({"do_normalize": False, "do_rescale": False}, 1 / 255),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(shown))
        found = facts(tmp_path / "model.safetensors", None, None)
        assert found["mean"] == (0, 0, 0) and found["std"] == (std,) * 3


@pytest.mark.parametrize(
    "shown",
    [
        {"image_mean": ["a", "b", "c"]}, {"image_std": [0, 0, 0]}, {"image_std": [None] * 3},
        {"image_std": [float("nan")] * 3},
        {"image_mean": [float("nan")] * 3}, {"rescale_factor": "x", **IMAGENET},
        {"rescale_factor": 0, **IMAGENET}, {"resample": [3], "size": {"height": 8, "width": 8}},
        {"resample": 3, "size": {"height": None, "width": 8}}, {"resample": 3, "size": 0},
        {**BIT, "size": {"shortest_edge": "wide"}}, {**BIT, "crop_size": -1},
    ],
)  # fmt: skip
def test_a_preprocessor_that_says_nonsense_is_one_line(tmp_path, shown):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(shown))
    (tmp_path / "config.json").write_text('{"id2label": 5}')
    with pytest.raises(
        zoo.WeightsError, match="preprocessor_config.json: it does not say"
    ) as caught:
        facts(tmp_path / "model.safetensors", None, None)
    assert "\n" not in str(caught.value)


def test_published_names_say_how_their_pictures_are_made():
    for name in zoo.list_models(pretrained=True):
        card = zoo.model_card(name)
        if card.source.startswith("hf:") and "videoprism" not in name and card.task == "encode":
            assert card.filter, name
    wide = zoo.model_card("efficientnet-lite0/imagenet")
    assert (wide.fit, wide.short_side, wide.filter) == ("crop", 256, "bicubic")
    # ours were trained on the frames of our sources
    assert not zoo.model_card("dsta-lite0/ucf11").filter


def test_the_class_is_that_of_the_published_pipeline():
    """Real weights, a wide picture: as Pillow resizes and cuts it, to the logits."""
    name = "efficientnet-lite0/imagenet"
    model, params, card = zoo.resolve(name)
    image = photo(240, 426, seed=3)
    whole = Image.fromarray(image).resize((454, 256), Image.Resampling.BICUBIC)
    want = np.asarray(whole.crop((115, 16, 339, 240)))
    apply = jax.jit(lambda x: model.apply(params, preprocess(x[None], card))[0])
    ours, theirs = apply(picture(image, card)), apply(want)
    squeezed = apply(resize(image, (224, 224)))
    gap = float(np.abs(ours - theirs).max() / theirs.std())
    assert gap < 0.1 < float(np.abs(squeezed - theirs).max() / theirs.std())


def test_a_source_at_a_cards_input_size_makes_the_published_picture(tmp_path):
    card = zoo.Card("a-b", input_size=(32, 32), fit="crop", short_side=40, filter="bicubic")
    with av.open(str(tmp_path / "wide.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 60, "bgr0"
        frame = av.VideoFrame.from_ndarray(photo(60, 96), format="rgb24")
        film.mux([*stream.encode(frame), *stream.encode()])
    for told in (card, pickle.loads(pickle.dumps(card)), copy.deepcopy(card)):
        with open_source(tmp_path / "wide.mkv", size=told.input_size) as source:
            got = source.read().image
        np.testing.assert_array_equal(got, picture(photo(60, 96), card))
    with open_source(tmp_path / "wide.mkv", size=(32, 32)) as source:
        assert np.abs(source.read().image.astype(int) - got).mean() > 2  # a plain size squeezes
    assert json.loads(card.to_json())["input_size"] == [32, 32]


class Mean:
    """Says the mean of each colour of its frames."""

    latency = 0

    def init_carry(self, batch, frame_shape=None):
        return jnp.zeros((batch, 1))

    def apply(self, params, carry, frames, valid=None):
        return carry, frames.mean(axis=(2, 3))


def test_a_session_makes_the_published_picture():
    card = zoo.Card("a-b", input_size=(32, 32), fit="crop", short_side=40, filter="bicubic")
    image = photo()
    with Session(Step(Mean(), None, card)) as session:
        got = session.push(image).output
    want = preprocess(picture(image, card), card).mean(axis=(0, 1))
    np.testing.assert_allclose(got, want, atol=1e-5)
    plain = zoo.Card("a-b", input_size=(32, 32))
    with pytest.raises(ValueError, match="resize it at the source"):
        Session(Step(Mean(), None, plain)).push(image)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, lambda x: jnp.asarray(x, jnp.bfloat16),
                                  lambda x: x.tolist()])  # fmt: skip
def test_floats_of_0_to_255_are_refused_whatever_holds_them(make):
    card = zoo.Card("a-b")
    with pytest.raises(ValueError, match=r"in \[0, 1\] and these lie in \[200, 200\]; divide"):
        preprocess(make(np.full((2, 4, 4, 3), 200, np.float32)), card)
    fine = preprocess(make(np.full((2, 4, 4, 3), 0.5, np.float32)), card)
    inside = jax.jit(lambda x: preprocess(x, card))(jnp.full((2, 4, 4, 3), 0.5))
    np.testing.assert_allclose(np.float32(fine), inside, atol=0.02)


def test_floats_of_torch_are_refused_too():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="divide by 255"):
        preprocess(torch.full((1, 4, 4, 3), 200.0), zoo.Card("a-b"))
