"""VideoMAE against transformers, and the AVA fine-tunes' head against torch operations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.action import VideoMAE, VideoMAEConfig
from streamzoo.zoo.action.videomae.model import position_table
from streamzoo.zoo.convert import ConvertError, convert_checkpoint, detect_converter
from streamzoo.zoo.registry import create_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
F = torch.nn.functional
from safetensors.torch import load_file, save_file

DIM, DEPTH, HEADS = 64, 3, 4
TAPS = ("embedding", "hidden", "attention", "features")


def apply(model, variables, *inputs, taps=()):
    """Compiled as a whole: quicker here than one operation at a time."""
    return jax.jit(lambda v, x: model.apply(v, *x, taps=taps))(variables, inputs)


def tiny(kind, **fields):
    """A random model with lively weights: default ones are so small that any layer would pass."""
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        **{
            **dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS),
            **dict(intermediate_size=96, image_size=32, num_frames=4, num_labels=7),
            **dict(decoder_hidden_size=32, decoder_num_hidden_layers=1),
            **dict(decoder_num_attention_heads=2, decoder_intermediate_size=32),
            **fields,
        }
    )
    config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
            else:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def clip(config, batch=2, seed=0):
    side = config.image_size
    h, w = (side, side) if isinstance(side, int) else side
    shape = (batch, config.num_frames, h, w, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def converted(model, folder):
    model.save_pretrained(folder)
    plan, variables = convert_checkpoint(folder)
    return create_model(plan.model, **plan.overrides), variables


def compare(name, ours, theirs, atol=1e-4):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    gap = np.abs(np.asarray(ours) - theirs).max()
    print(f"{name}: max abs diff {gap:.1e}, std {theirs.std():.2f}")
    assert theirs.std() > 0.1 * np.abs(theirs).mean() > 0
    assert gap < atol


@pytest.mark.parametrize("side, frames", [(32, 4), ([48, 80], 6)])
def test_every_hidden_state_equals_transformers(tmp_path, side, frames):
    model = tiny(
        transformers.VideoMAEModel, image_size=side, num_frames=frames, use_mean_pooling=False
    )
    ours, variables = converted(model, tmp_path)
    video = clip(model.config)
    with torch.no_grad():
        want = model(
            torch.from_numpy(video).permute(0, 1, 4, 2, 3),
            output_hidden_states=True,
            output_attentions=True,
        )
    out = apply(ours, variables, video, taps=TAPS)
    assert out.logits is None and out.boxes is None
    compare("embedding", out.taps["embedding"], want.hidden_states[0])
    assert out.taps["hidden"].shape[0] == DEPTH == len(want.attentions)
    for layer in range(DEPTH):
        compare(f"hidden {layer}", out.taps["hidden"][layer], want.hidden_states[layer + 1])
        compare(f"attention {layer}", out.taps["attention"][layer], want.attentions[layer])
    features = out.taps["features"]
    compare("final", features.reshape(len(video), -1, DIM), want.last_hidden_state)


@pytest.mark.parametrize("side, act", [(32, "gelu"), ([48, 32], "gelu_new")])
def test_logits_equal_transformers(tmp_path, side, act):
    model = tiny(transformers.VideoMAEForVideoClassification, image_size=side, hidden_act=act)
    ours, variables = converted(model, tmp_path)
    video = clip(model.config)
    with torch.no_grad():
        want = model(torch.from_numpy(video).permute(0, 1, 4, 2, 3)).logits
    compare("logits", apply(ours, variables, video).logits, want, atol=1e-5)
    # The softmax does not see a key bias, so no output tells that it is zero.
    bias = variables["params"]["blocks"]["layer0"]["attn"]["qkv"]["bias"].reshape(DEPTH, 3, DIM)
    assert not bias[:, 1].any() and bias[:, 0].all() and bias[:, 2].all()


def test_pretraining_checkpoint_gives_its_encoder(tmp_path):
    model = tiny(transformers.VideoMAEForPreTraining, use_mean_pooling=False)
    ours, variables = converted(model, tmp_path)
    video = clip(model.config)
    with torch.no_grad():
        want = model.videomae(torch.from_numpy(video).permute(0, 1, 4, 2, 3)).last_hidden_state
    features = apply(ours, variables, video, taps=("features",)).taps["features"]
    compare("encoder", features.reshape(2, -1, DIM), want)


# --- the published action-detection fine-tunes -----------------------------------------------


def ava_checkpoint(folder, dim=DIM, depth=2):
    """A random file in the published layout, made by renaming a transformers model."""
    model = tiny(
        transformers.VideoMAEModel, num_hidden_layers=depth, hidden_size=dim,
        use_mean_pooling=False, intermediate_size=4 * dim,
    )  # fmt: skip
    model.save_pretrained(folder / "source")
    old, new = load_file(folder / "source" / "model.safetensors"), {}
    for layer in range(depth):
        a, b = f"encoder.layer.{layer}.", f"blocks.{layer}."
        three = [old.pop(f"{a}attention.attention.{n}.weight") for n in ("query", "key", "value")]
        new[b + "attn.qkv.weight"] = torch.cat(three)
        for x in ("q_bias", "v_bias"):
            new[f"{b}attn.{x}"] = old.pop(f"{a}attention.attention.{x}")
        for source, target in [
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
        ]:
            for x in (".weight", ".bias"):
                new[b + target + x] = old.pop(a + source + x)
    for x in (".weight", ".bias"):
        new["patch_embed.proj" + x] = old.pop("embeddings.patch_embeddings.projection" + x)
        new["norm" + x] = old.pop("layernorm" + x)
    assert not old
    new["head.weight"], new["head.bias"] = torch.randn(80, dim) / 4, torch.randn(80)
    save_file(new, folder / "ava.safetensors")
    (folder / "config.json").write_text(f'{{"num_attention_heads": {HEADS}}}')
    return folder / "ava.safetensors", new


def ava_reference(w, video, boxes):
    """The published model in torch operations: video [B, 3, T, H, W], boxes in pixels, a list of
    [K, 4] -> logits [sum of K, 80]."""
    _, _, steps, height, width = video.shape
    x = F.conv3d(video, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], (2, 16, 16))
    batch, dim, t, h, w_ = x.shape
    rate = 10_000 ** (-2 * (torch.arange(dim) // 2) / dim).double()
    angle = torch.arange(t * 14 * 14).double()[:, None] * rate
    table = torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos()).float()
    table = table.reshape(t, 14, 14, dim).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(h, w_), mode="bicubic", align_corners=False)
    x = x.flatten(2).transpose(1, 2) + table.permute(0, 2, 3, 1).reshape(1, -1, dim)

    def norm(x, key):
        return F.layer_norm(x, (dim,), w[key + ".weight"], w[key + ".bias"], 1e-6)

    for layer in range(2):
        b = f"blocks.{layer}."
        bias = torch.cat([w[b + "attn.q_bias"], torch.zeros(dim), w[b + "attn.v_bias"]])
        qkv = F.linear(norm(x, b + "norm1"), w[b + "attn.qkv.weight"], bias)
        q, k, v = qkv.reshape(batch, -1, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
        rows = (q * (dim // HEADS) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        y = (rows @ v).transpose(1, 2).reshape(batch, -1, dim)
        x = x + F.linear(y, w[b + "attn.proj.weight"], w[b + "attn.proj.bias"])
        y = F.gelu(F.linear(norm(x, b + "norm2"), w[b + "mlp.fc1.weight"], w[b + "mlp.fc1.bias"]))
        x = x + F.linear(y, w[b + "mlp.fc2.weight"], w[b + "mlp.fc2.bias"])
    maps = norm(x, "norm").reshape(batch, t, h, w_, dim).mean(1).permute(0, 3, 1, 2)
    vectors = []
    for image, found in zip(maps, boxes, strict=False):
        for x1, y1, x2, y2 in found.tolist():
            grow_x, grow_y = 0.1 * (x2 - x1 + 1) / 2, 0.05 * (y2 - y1 + 1) / 2
            x1, x2 = max(x1 - grow_x, 0), min(x2 + grow_x, width - 1)
            y1, y2 = max(y1 - grow_y, 0), min(y2 + grow_y, height - 1)
            xs, ys = samples(x1 / 16, x2 / 16), samples(y1 / 16, y2 / 16)
            # grid_sample with repeated borders reads what RoIAlign reads, within the image
            at_y, at_x = torch.meshgrid(2 * ys / (h - 1) - 1, 2 * xs / (w_ - 1) - 1, indexing="ij")
            grid = torch.stack([at_x, at_y], -1)[None].float()
            read = F.grid_sample(image[None], grid, padding_mode="border", align_corners=True)
            cells = F.avg_pool2d(read, (len(ys) // 7, len(xs) // 7))
            vectors.append(cells.amax((2, 3))[0])
    return F.linear(torch.stack(vectors), w["head.weight"], w["head.bias"])


def samples(low, high):
    """Sample points of the 7 cells between two edges: ceil(side / 7) of them per cell."""
    side = max(high - low, 1.0)
    count = 7 * int(np.ceil(side / 7))
    return low + (torch.arange(count).double() + 0.5) * side / count


PEOPLE = [
    [0.05, 0.1, 0.6, 0.95],
    [0.4, 0.0, 1.0, 1.0],
    [0.71, 0.33, 0.74, 0.38],
    [0.0, 0.52, 0.3, 0.86],
]


@pytest.mark.parametrize("steps, height, width", [(16, 48, 80), (4, 240, 272), (2, 224, 224)])
def test_ava_logits_equal_the_published_model(tmp_path, steps, height, width):
    path, weights = ava_checkpoint(tmp_path)
    plan, variables = convert_checkpoint(path)
    ours = create_model(plan.model, **plan.overrides)
    rng = np.random.default_rng(1)
    video = rng.normal(size=(2, steps, height, width, 3)).astype(np.float32)
    boxes = np.asarray([PEOPLE, PEOPLE[::-1]], np.float32)
    pixels = torch.from_numpy(boxes * np.asarray([width, height] * 2, np.float32))
    with torch.no_grad():
        want = ava_reference(weights, torch.from_numpy(video).permute(0, 4, 1, 2, 3), list(pixels))
    out = apply(ours, variables, video, boxes, taps=("roi",))
    assert out.taps["roi"].shape == (2, 4, DIM)
    compare("AVA logits", out.box_logits.reshape(8, 80), want)

    # Slots without a person may hold anything and do not touch the others.
    valid = np.ones((2, 4), bool)
    valid[0, 1] = valid[1, 3] = False
    holes = np.where(valid[..., None], boxes, np.nan)
    masked = apply(ours, variables, video, holes, valid)
    np.testing.assert_allclose(masked.box_logits[valid], out.box_logits[valid], atol=1e-5)
    assert not np.asarray(masked.box_logits)[~valid].any()


def test_published_sizes_are_recognised_without_a_config(tmp_path):
    path, _ = ava_checkpoint(tmp_path, dim=192, depth=12)
    (tmp_path / "config.json").unlink()
    plan, _ = convert_checkpoint(path)
    assert plan.overrides["heads"] == 3 and plan.overrides["head"] == "roi"
    # another width, or a last block that is missing
    for dim, depth in ((64, 12), (192, 11)):
        path, _ = ava_checkpoint(tmp_path, dim=dim, depth=depth)
        (tmp_path / "config.json").unlink()
        with pytest.raises(ConvertError, match="complete.*config.json"):
            convert_checkpoint(path)


# --- what does not fit -----------------------------------------------------------------------


def spoil(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    "change, names",
    [
        (lambda w: w.update(pos_embed=torch.zeros(1, 1568, DIM)), ["unused", "pos_embed"]),
        (lambda w: w.pop("blocks.1.mlp.fc2.bias"), ["unfilled", "mlp/down/bias", "row 1"]),
        (lambda w: w.pop("norm.bias"), ["unfilled", "norm/bias"]),
        (lambda w: w.update({"blocks.0.attn.qkv.bias": torch.zeros(DIM)}), ["attn.qkv.bias"]),
        (
            lambda w: (w.pop("head.bias"), w.update({"extra": torch.zeros(1)})),
            ["head/bias", "extra"],
        ),
    ],
)
def test_ava_files_that_do_not_fit_fail_with_every_name(tmp_path, change, names):
    path, _ = ava_checkpoint(tmp_path)
    spoil(path, change)
    with pytest.raises(ConvertError) as caught:
        convert_checkpoint(path)
    assert all(name in str(caught.value) for name in names), caught.value


@pytest.mark.parametrize(
    "change, names",
    [
        (lambda w: w.update({"videomae.encoder.gate": torch.zeros(1)}), ["encoder.gate"]),
        (lambda w: w.pop("videomae.encoder.layer.2.layernorm_after.weight"), ["norm2/scale"]),
        (lambda w: w.pop("classifier.bias"), ["head/bias"]),
        (lambda w: w.pop("fc_norm.weight"), ["use_mean_pooling"]),
    ],
)
def test_transformers_files_that_do_not_fit_fail(tmp_path, change, names):
    tiny(transformers.VideoMAEForVideoClassification).save_pretrained(tmp_path)
    spoil(tmp_path / "model.safetensors", change)
    with pytest.raises(ConvertError) as caught:
        convert_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), caught.value


def test_each_layout_has_one_converter(tmp_path):
    _, weights = ava_checkpoint(tmp_path)
    assert detect_converter(weights).name == "videomae-ava"
    keys = load_file(tmp_path / "source" / "model.safetensors")
    assert detect_converter(keys).name == "videomae-transformers"
    with pytest.raises(ConvertError):
        detect_converter(keys, {"model_type": "vivit"})


# --- the module ------------------------------------------------------------------------------

SMALL: dict[str, Any] = dict(image_size=(32, 48), dim=32, depth=2, heads=2, frames=4, num_classes=5)
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 32, 48, 3)).astype(np.float32)


@functools.cache
def small(head):
    model = VideoMAE(VideoMAEConfig(**SMALL, head=head))
    return model, jax.jit(model.init)(jax.random.key(0), VIDEO)


@pytest.mark.parametrize("head", ["frame", "roi"])
def test_taps_change_nothing_and_are_absent_unless_named(head):
    model, variables = small(head)
    plain = apply(model, variables, VIDEO)
    taps = TAPS + (("roi",) if head == "roi" else ())
    full = apply(model, variables, VIDEO, taps=taps)
    assert plain.taps is None and set(full.taps) == set(taps)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, full.replace(taps=None)
    )
    np.testing.assert_allclose(full.taps["attention"].sum(-1), 1.0, atol=1e-5)
    rows = 2 * 2 * 3
    text = str(jax.make_jaxpr(lambda v: model.apply(v, VIDEO))(variables))
    assert f"f32[{SMALL['depth']},2,1,{rows},32]" not in text  # no stacked hidden states
    stacked = str(jax.make_jaxpr(lambda v: model.apply(v, VIDEO, taps=("hidden",)))(variables))
    assert f"f32[{SMALL['depth']},2,1,{rows},32]" in stacked


def test_without_boxes_the_whole_frame_is_the_box():
    model, variables = small("roi")
    whole = np.asarray([[[0.0, 0.0, 1.0, 1.0]]] * 2, np.float32)
    out = apply(model, variables, VIDEO)
    np.testing.assert_array_equal(out.boxes, whole)
    np.testing.assert_allclose(out.box_logits, apply(model, variables, VIDEO, whole).box_logits)


def test_sizes():
    config = VideoMAEConfig.of("b", head="frame", final_norm=False, num_classes=400)
    assert (config.dim, config.depth, config.heads, config.head) == (768, 12, 12, "frame")
    video = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(VideoMAE(config).init, jax.random.key(0), video)
    with torch.device("meta"):
        model = transformers.VideoMAEForVideoClassification(
            transformers.VideoMAEConfig(num_labels=400)
        )
    theirs = {name: p.numel() for name, p in model.named_parameters()}
    assert not any("key.bias" in name for name in theirs)  # ours has them, as zeros
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == sum(theirs.values()) + 12 * 768


def test_position_table_is_torch_bicubic():
    table = position_table(2, (14, 14), (14, 14), 32).reshape(2, 14, 14, 32)
    for grid in ((16, 28), (5, 9)):
        want = F.interpolate(
            torch.from_numpy(table).permute(0, 3, 1, 2), size=grid, mode="bicubic"
        ).permute(0, 2, 3, 1)
        got = position_table(2, (14, 14), grid, 32).reshape(want.shape)
        np.testing.assert_allclose(got, want, atol=5e-6)


@pytest.mark.parametrize(
    "video, boxes, taps, words",
    [
        ((1, 3, 32, 48, 3), None, (), "multiple of 2 frames"),
        ((1, 4, 30, 48, 3), None, (), "multiples of 16"),
        ((4, 32, 48, 3), None, (), "batch, time"),
        ((1, 4, 32, 48, 3), (2, 3, 4), (), "boxes"),
        ((1, 4, 32, 48, 3), None, ("hiden",), "hidden"),
    ],
)
def test_wrong_input_is_named(video, boxes, taps, words):
    model, variables = small("roi")
    with pytest.raises(ValueError, match=words):
        model.apply(variables, jnp.zeros(video), None if boxes is None else jnp.zeros(boxes),
                    taps=taps)  # fmt: skip


@pytest.mark.parametrize(
    "fields", [dict(head="box"), dict(image_size=(30, 32)), dict(frames=5), dict(heads=5)]
)
def test_configs_that_cannot_be_built(fields):
    with pytest.raises(ValueError):
        VideoMAEConfig(**{**SMALL, **fields})
    with pytest.raises(ValueError, match="unknown size"):
        VideoMAEConfig.of("xl")
