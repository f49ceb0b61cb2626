"""The image ViT by itself, and published checkpoints by their hub names (random weights)."""

import json
import shutil
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save as to_bytes
from safetensors.numpy import save_file

from streamzoo.zoo import create_model, load, load_weights, model_config, save
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.encode import ImageViT, ImageViTConfig
from streamzoo.zoo.encode.dino.research import as_transformers, rope_base
from streamzoo.zoo.encode.vit import TAPS, block_of
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.weights import shapes_of

from ..parity import golden
from .loopback import Hub

DIM, DEPTH, HIDDEN, REGISTERS = 32, 2, 48, 2
SMALL: dict[str, Any] = dict(
    image_size=(32, 32), dim=DIM, depth=DEPTH, heads=2, mlp_ratio=HIDDEN / DIM
)
V3 = dict(positions="rope", biased="qv", class_position=False, eps=1e-5, layer_scale=1e-5)


# --- the module ------------------------------------------------------------------------------


def test_block_by_block_is_the_whole():
    """What the recompute cache builds on: the stacked parameters and a block by itself."""
    model: Any = ImageViT(ImageViTConfig(**SMALL, **V3, registers=REGISTERS))
    frames = jax.random.normal(jax.random.key(0), (2, 32, 48, 3))
    variables = jax.jit(model.init)(jax.random.key(1), frames)

    @jax.jit
    def both(variables, frames):
        block: Any = block_of(model.config)
        rope = model.angles(2, 3)

        def step(x, one):
            _, x, _ = block.apply({"params": one}, (), x, rope=rope)
            return x, x[:, 0]

        x = model.apply(variables, frames, method="embed")[:, None]
        x, hidden = jax.lax.scan(step, x, variables["params"]["blocks"]["layer0"])
        parts = model.apply(variables, x[:, 0], 2, 3, method="read")
        return hidden, parts, model.apply(variables, frames, taps=TAPS)

    hidden, parts, whole = both(variables, frames)
    np.testing.assert_allclose(hidden, whole.taps["hidden"], atol=1e-5)
    np.testing.assert_allclose(parts.features, whole.features, atol=1e-5)
    np.testing.assert_allclose(parts.pooled, whole.pooled, atol=1e-5)
    assert whole.features.shape == (2, 2, 3, DIM) and whole.prefix.shape == (2, 3, DIM)
    assert whole.taps["embedding"].shape == (2, 9, DIM)
    np.testing.assert_allclose(whole.taps["attention"].sum(-1), 1.0, atol=1e-5)


FORMS = {
    "dinov3": dict(**V3, registers=REGISTERS, gated=True),
    "clip": dict(pre_norm=True, final_norm="pooled", patch_bias=False, projection=7),
    "siglip": dict(class_tokens=0, class_position=False, pool="map", resize="bilinear-aa"),
    "radio": dict(
        class_tokens=3, class_position=False, pool_tokens=(0, 2), resize="crop", final_norm="none"
    ),
    "mean": dict(class_tokens=0, positions="none", pool="mean", biased=""),
}
WIDTH = {"dinov3": DIM, "clip": 7, "siglip": DIM, "radio": 2 * DIM, "mean": DIM}


@pytest.mark.parametrize("form", FORMS)
def test_other_frame_sizes_and_bfloat16(form):
    """Parameters stay fp32, whatever the compute type; any grid runs."""
    config = ImageViTConfig(**SMALL, **FORMS[form], dtype="bfloat16")
    model = ImageViT(config)
    frames = jax.ShapeDtypeStruct((2, 48, 80, 3), np.float32)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), frames)
    assert {a.dtype for a in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert out.features.shape == (2, 3, 5, DIM) and out.pooled.shape == (2, WIDTH[form])
    assert out.features.dtype == out.pooled.dtype == jax.numpy.bfloat16
    assert (out.prefix is None) == (config.prefix == 0)


@pytest.mark.parametrize(
    "frames, taps, words",
    [
        (np.zeros((1, 1, 32, 32, 3), np.float32), (), "height, width, 3"),
        (np.zeros((1, 32, 40, 3), np.float32), (), "multiples of 16"),
        (np.zeros((1, 32, 32, 3), np.uint8), (), "preprocess"),
        (np.zeros((1, 32, 32, 3), np.float32), ("hiden",), "hidden"),
    ],
)
def test_wrong_input_is_named(frames, taps, words):
    model = ImageViT(ImageViTConfig(**SMALL))
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda: model.init(jax.random.key(0), frames, taps=taps))


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(positions="sine"), "positions 'sine'"),
        (dict(pool_tokens=(1,)), "1 class tokens"),
        (dict(heads=5), "divisible"),
        (dict(image_size=(30, 32)), "multiple of 16"),
        (dict(table_grid=(3,)), "table_grid"),
    ],
)
def test_configs_that_cannot_be_built(fields, words):
    with pytest.raises(ValueError, match=words):
        ImageViTConfig(**{**SMALL, **fields})


# --- published names -------------------------------------------------------------------------


def dinov3(dim=DIM, depth=DEPTH, heads=2, hidden=HIDDEN, registers=REGISTERS):
    """(config.json, tensors) in the layout of facebook/dinov3-vits16-pretrain-lvd1689m."""
    rng = np.random.default_rng(0)
    one = {
        "norm1.weight": (dim,),
        "norm1.bias": (dim,),
        "norm2.weight": (dim,),
        "norm2.bias": (dim,),
        "layer_scale1.lambda1": (dim,),
        "layer_scale2.lambda1": (dim,),
        "attention.q_proj.weight": (dim, dim),
        "attention.q_proj.bias": (dim,),
        "attention.k_proj.weight": (dim, dim),
        "attention.v_proj.weight": (dim, dim),
        "attention.v_proj.bias": (dim,),
        "attention.o_proj.weight": (dim, dim),
        "attention.o_proj.bias": (dim,),
        "mlp.up_proj.weight": (hidden, dim),
        "mlp.up_proj.bias": (hidden,),
        "mlp.down_proj.weight": (dim, hidden),
        "mlp.down_proj.bias": (dim,),
    }
    shapes = {f"layer.{i}.{key}": shape for i in range(depth) for key, shape in one.items()}
    shapes |= {
        "embeddings.cls_token": (1, 1, dim),
        "embeddings.mask_token": (1, 1, dim),
        "embeddings.register_tokens": (1, registers, dim),
        "embeddings.patch_embeddings.weight": (dim, 3, 16, 16),
        "embeddings.patch_embeddings.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    config = {
        "model_type": "dinov3_vit",
        "architectures": ["DINOv3ViTModel"],
        "hidden_size": dim,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "patch_size": 16,
        "use_gated_mlp": False,
        "key_bias": False,
    }
    tensors = {key: rng.normal(size=s).astype(np.float32) for key, s in shapes.items()}
    return config, tensors


def research(tensors, base=100.0):
    """The same under the names of facebookresearch/dinov3 and EUPE: one matrix of queries, keys and
    values, whose bias of keys is masked and holds anything, and the periods of the positions."""
    names = {
        "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
        "norm.weight": "norm.weight", "norm.bias": "norm.bias",
    }  # fmt: skip
    parts = {
        "norm1": "norm1", "norm2": "norm2", "attention.o_proj": "attn.proj",
        "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2",
    }  # fmt: skip
    if any("gate_proj" in key for key in tensors):
        parts |= {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
    found = {theirs: tensors[ours] for ours, theirs in names.items()}
    for i in range(DEPTH):
        layer, block = f"layer.{i}.", f"blocks.{i}."
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                found[f"{block}{theirs}.{kind}"] = tensors[f"{layer}{ours}.{kind}"]
        for n in "12":
            found[f"{block}ls{n}.gamma"] = tensors[f"{layer}layer_scale{n}.lambda1"]
        attention = layer + "attention."
        rows = [tensors[f"{attention}{n}_proj.weight"] for n in "qkv"]
        found[block + "attn.qkv.weight"] = np.concatenate(rows)
        q, v = (tensors[f"{attention}{n}_proj.bias"] for n in "qv")
        found[block + "attn.qkv.bias"] = np.concatenate([q, np.full_like(q, np.nan), v])
        found[block + "attn.qkv.bias_mask"] = np.concatenate([q * 0 + 1, q * 0, v * 0 + 1])
    periods = base ** (np.arange(16) / 16)
    return found | {"rope_embed.periods": periods.astype(ml_dtypes.bfloat16).astype(np.float32)}


@pytest.mark.parametrize("gated", [False, True])
def test_research_names_are_read_like_the_published_ones(gated, tmp_path):
    config, tensors = dinov3(dim=128, heads=2)
    if gated:
        config |= {"use_gated_mlp": True, "hidden_act": "silu"}
        for i in range(DEPTH):
            for kind in ("weight", "bias"):
                up = tensors[f"layer.{i}.mlp.up_proj.{kind}"]
                tensors[f"layer.{i}.mlp.gate_proj.{kind}"] = up[::-1].copy()
    plans, trees = [], []
    for name, held in (("theirs", tensors), ("research", research(tensors))):
        folder = tmp_path / name
        folder.mkdir()
        save_file(held, folder / "model.safetensors")
        if name == "theirs":
            (folder / "config.json").write_text(json.dumps(config))
        plan, variables = convert_checkpoint(folder)
        plans.append((plan.model, dict(plan.overrides)))
        trees.append(variables)
    assert plans[0] == plans[1]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    odd = research(tensors, base=50.0) | {"blocks.0.attn.proj.gain": np.ones(3, np.float32)}
    assert rope_base(odd) == 50.0
    with pytest.raises(ConvertError, match="blocks.0.attn.proj.gain: no such part"):
        as_transformers(odd)


NAME = "facebook/dinov3-vits16-pretrain-lvd1689m"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STREAMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def publish(hub, name, config, tensors):
    hub.files[name, "config.json"] = json.dumps(config).encode()
    hub.files[name, "model.safetensors"] = to_bytes(tensors, metadata={"format": "pt"})


def test_a_published_name_loads(hub):
    config, tensors = dinov3()
    publish(hub, NAME, config, tensors)
    model, variables = load(f"hf:{NAME}")
    assert isinstance(model, ImageViT)
    want = ImageViTConfig(**{**SMALL, "image_size": (224, 224)}, **V3, registers=REGISTERS)
    assert model.config == want
    kernel = variables["params"]["blocks"]["layer0"]["attn"]["qkv"]["kernel"]
    np.testing.assert_array_equal(
        kernel[1, :, DIM : 2 * DIM], tensors["layer.1.attention.k_proj.weight"].T
    )
    again = load_weights(f"hf:{NAME}")
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    asked = [request.rsplit("/", 1)[1] for request in hub.requests]
    assert set(asked) == {"config.json", "model.safetensors"}

    # a model of another size is refused by name
    with pytest.raises(WeightsError, match=r"mis-shaped.*it looks like dinov3-s16 with .*dim=32"):
        load_weights(f"hf:{NAME}", create_model("dinov3-s16", dim=96))
    with pytest.raises(WeightsError, match=r"mis-shaped.*it looks like dinov3-s16 with .*dim=32"):
        load_weights("dinov3-s16/lvd1689m")


def test_a_model_in_parts(hub, tmp_path):
    config, tensors = dinov3()
    publish(hub, "a/parts", config, tensors)
    whole = hub.files.pop(("a/parts", "model.safetensors"))
    files = {key: f"model-{1 + i % 2}-of-2.safetensors" for i, key in enumerate(tensors)}
    for file in set(files.values()):
        part = {key: tensors[key] for key in tensors if files[key] == file}
        hub.files["a/parts", file] = to_bytes(part, metadata={"format": "pt"})
    index = {"weight_map": files}
    hub.files["a/parts", "model.safetensors.index.json"] = json.dumps(index).encode()
    in_parts = load_weights("hf:a/parts")
    hub.files["a/whole", "model.safetensors"] = whole
    hub.files["a/whole", "config.json"] = hub.files["a/parts", "config.json"]
    jax.tree.map(np.testing.assert_array_equal, in_parts, load_weights("hf:a/whole"))

    for bad in (b"[]", b"{", b'{"weight_map": {"a": "x.bin"}}'):
        hub.files["a/bad", "model.safetensors.index.json"] = bad
        with pytest.raises(WeightsError, match="index"):
            load_weights("hf:a/bad")
        del hub.files["a/bad", "model.safetensors.index.json"]
        shutil.rmtree(tmp_path / "cache" / "models--a--bad")


def test_a_model_in_a_folder_of_its_repository(hub):
    config, tensors = dinov3(heads=4)  # the config alone tells that
    publish(hub, "a/many", config, tensors)
    for file in ("config.json", "model.safetensors"):
        hub.files["a/many", f"small/{file}"] = hub.files.pop(("a/many", file))
    assert load("hf:a/many:small/model.safetensors")[0].config.heads == 4


def test_what_a_repository_should_not_hold(hub, tmp_path):
    config, tensors = dinov3()
    broken = {k: v for k, v in tensors.items() if "0.norm1" not in k}
    broken["layer.0.gate"] = np.zeros(1, np.float32)
    publish(hub, "a/broken", config, broken)
    with pytest.raises(WeightsError) as caught:
        load("hf:a/broken")
    for word in ("hf:a/broken", "norm1/scale", "norm1/bias", "layer.0.gate"):
        assert word in str(caught.value)
    publish(hub, "a/bert", {"model_type": "bert"}, {"bert.weight": np.zeros(1, np.float32)})
    with pytest.raises(WeightsError, match="hf:a/bert.*model_type 'bert'.*dinov3-transformers"):
        load("hf:a/bert")
    # a file of the disk: what it may be
    for file, data in (("config.json", json.dumps(config).encode()), ("x.safetensors", None)):
        (tmp_path / file).write_bytes(data or to_bytes(tensors))
    with pytest.raises(WeightsError, match="it looks like dinov3-s16 with .*: `streamzoo convert`"):
        load_weights(tmp_path / "x.safetensors", template={"params": {"a": np.zeros(1)}})


def test_weights_of_another_family_are_named(hub, tmp_path):
    """A tracker's file, and one of an encoder, where an encoder or a segmenter was asked for."""
    sam = create_model("sam2-t")
    config, tensors = dinov3()
    publish(hub, "a/dino", config, tensors)
    with pytest.raises(WeightsError, match="hf:a/dino.*of dinov3-s16 with .*dim=32.*not Sam2;"):
        load_weights("hf:a/dino", sam)
    shapes, _ = golden.read("efficienttam")
    tracker = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    told = {"num_attention_heads": 3, "window_size": 3, "global_blocks": [1, 3]}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "x.safetensors").write_bytes(to_bytes(tracker))
    for read in (load, lambda path: load_weights(path, sam)):
        with pytest.raises(WeightsError, match="names no model.*it looks like efficienttam-"):
            read(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="RADIO checkpoint without.*it looks like efficienttam-"):
        convert_checkpoint(tmp_path, "radio-transformers")
    save(tmp_path / "own.safetensors", {"params": {"a": np.zeros(1)}}, {"model": "edgetam-m1"})
    with pytest.raises(WeightsError, match="own.*of edgetam-m1: .* Tracker, not ImageViT; load"):
        load_weights(tmp_path / "own.safetensors", create_model("dinov3-s16"))


@pytest.mark.slow
def test_a_published_model_of_its_real_size(hub, tmp_path):
    """Saved by transformers, found by our name for it: the same features."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(num_register_tokens=4)
    torch.manual_seed(0)
    theirs = transformers.DINOv3ViTModel(config).eval()
    theirs.save_pretrained(tmp_path / "saved")
    for file in ("config.json", "model.safetensors"):
        hub.files[NAME, file] = (tmp_path / "saved" / file).read_bytes()
    model, variables = load("dinov3-s16/lvd1689m")
    assert model.config == model_config("dinov3-s16")
    frames = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        want = theirs(torch.from_numpy(frames).permute(0, 3, 1, 2)).pooler_output.numpy()
    pooled = jax.jit(model.apply)(variables, frames).pooled
    assert np.abs(pooled - want).max() < 1e-4 * want.std()


# --- sizes -----------------------------------------------------------------------------------

# name -> (class of transformers, the config whose defaults are the published model, extra
# parameters of theirs: mask tokens, and gains that the published RADIO does without)
PUBLISHED = {
    "dinov2-b14": ("Dinov2Model", dict(image_size=518), 768),
    "dinov2reg-b14": ("Dinov2WithRegistersModel", dict(image_size=518, patch_size=14), 768),
    "dinov3-s16": ("DINOv3ViTModel", dict(num_register_tokens=4), 384),
    "clip-b32": ("CLIPVisionModelWithProjection", {}, 0),
    "clip-dual-b32": ("CLIPModel", {}, 0),
    "siglip-b16": ("SiglipVisionModel", {}, 0),
    "siglip-dual-b16": ("SiglipModel", {}, 0),
    "siglip2-b16": ("Siglip2VisionModel", {}, 0),
    "radio-h16": ("RadioModel", {}, 2 * 32 * 1280),
    "vjepa2-l16": ("VJEPA2Model", {}, 0),
    "videoprism-b18": ("VideoPrismVisionModel", {}, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, fields, extra = PUBLISHED[name]
    cls = getattr(transformers, kind)
    with torch.device("meta"):
        theirs = cls(cls.config_class(**fields))
    theirs = theirs.encoder if name.startswith("vjepa2") else theirs
    ours = sum(a.size for a in jax.tree.leaves(shapes_of(name)))
    assert ours == sum(p.numel() for p in theirs.parameters()) - extra
