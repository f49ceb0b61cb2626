"""FastConformer as published -> our parameters: NeMo's names, or those of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...config_json import settings
from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv1d,
    conv2d,
    linear,
    register_converter,
)

Tensors = Mapping[str, np.ndarray]
FAMILY = "FastConformer"
IGNORED = (r"preprocessor\..*", r".*num_batches_tracked")
# transformers' names -> NeMo's, in this order
RENAMED = (
    (r"encoder\.subsampling\.conv_in\.", "encoder.pre_encode.conv.0."),
    (r"encoder\.subsampling\.layers\.0\.depthwise_conv\.", "encoder.pre_encode.conv.2."),
    (r"encoder\.subsampling\.layers\.0\.pointwise_conv\.", "encoder.pre_encode.conv.3."),
    (r"encoder\.subsampling\.layers\.1\.depthwise_conv\.", "encoder.pre_encode.conv.5."),
    (r"encoder\.subsampling\.layers\.1\.pointwise_conv\.", "encoder.pre_encode.conv.6."),
    (r"encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"(.*\.self_attn\.)([qkv])_proj\.", r"\1linear_\2."),
    (r"(.*\.self_attn\.)o_proj\.", r"\1linear_out."),
    (r"(.*\.self_attn\.)relative_k_proj\.", r"\1linear_pos."),
    (r"(.*\.self_attn\.)bias_([uv])", r"\1pos_bias_\2"),
    (r"(.*\.conv\.)norm\.", r"\1batch_norm."),
    (r"decoder\.embedding\.", "decoder.prediction.embed."),
    (r"decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
    (r"decoder\.decoder_projector\.", "joint.pred."),
    (r"encoder_projector\.", "joint.enc."),
    (r"joint\.head\.", "joint.joint_net.2."),
    # NeMo's own: a model of CTC alone calls its head a decoder
    (r"decoder\.decoder_layers\.", "ctc_decoder.decoder_layers."),
)
# what transformers' NemotronAsrStreamingEncoderConfig has where a file says nothing
ENCODER: Fields = {
    "hidden_act": "silu",
    "scale_input": True,
    "sliding_window": 71,
    "default_num_lookahead_tokens": 13,
}
# what NeMo's ConformerEncoder has in the configs of its cache-aware models
NEMO: Fields = {
    "xscaling": True,
    "causal_downsampling": True,
    "conv_context_size": "causal",
    "conv_norm_type": "layer_norm",
    "att_context_style": "chunked_limited",
}


def nemo_names(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors under NeMo's names; biases that a model does without are zeros."""
    bare = any(key.startswith("pre_encode.") for key in tensors)  # an encoder by itself
    found = {}
    for key, value in tensors.items():
        name = f"encoder.{key}" if bare else key
        for pattern, target in RENAMED:
            match = re.match(pattern, name)
            if match is not None:
                name = match.expand(target) + name[match.end() :]
        found[name] = value
    for key in [k for k in found if k.startswith("encoder.layers.") and k.endswith(".weight")]:
        bias = key.removesuffix("weight") + "bias"
        if "linear_pos" not in key and bias not in found:
            found[bias] = np.zeros(len(found[key]), found[key].dtype)
    return found


def _pair(rules: list[Rule], key: str, target: str, weight: Any, **options: Any) -> None:
    kernel = "scale" if weight is None else "kernel"
    change = {} if weight is None else {"transform": weight}
    rules.append(Rule(key + r"\.weight", f"{target}/{kernel}", **change, **options))
    rules.append(Rule(key + r"\.bias", f"{target}/bias", **options))


def _point(x: np.ndarray) -> np.ndarray:
    """A convolution of one tap, [O, I, 1] or [O, I, 1, 1], as a Dense kernel."""
    return x.reshape(x.shape[:2]).T


def _encoder(depth: int) -> list[Rule]:
    rules: list[Rule] = []
    stem = r"encoder\.pre_encode\."
    for theirs, ours, change in (
        ("conv.0", "layers_1", conv2d),
        ("conv.2", "layers_3", conv2d),
        ("conv.3", "layers_4/of", _point),
        ("conv.5", "layers_6", conv2d),
        ("conv.6", "layers_7/of", _point),
    ):
        _pair(rules, stem + re.escape(theirs), f"net/{ours}", change)
    _pair(rules, stem + "out", "net/layers_9/of/dense", linear)
    at, ours = r"encoder\.layers\.(?P<layer>\d+)\.", "net/layers_10/block"
    every: Any = dict(stack=depth)
    for theirs, name in {
        "norm_feed_forward1": "norm1",
        "norm_self_att": "norm_attn",
        "norm_conv": "norm_conv",
        r"conv\.batch_norm": "norm_inner",
        "norm_feed_forward2": "norm2",
        "norm_out": "norm_out",
    }.items():
        _pair(rules, at + theirs, f"{ours}/{name}", None, **every)
    for half in (1, 2):
        for theirs, name in (("linear1", "up"), ("linear2", "down")):
            key = at + rf"feed_forward{half}\.{theirs}"
            _pair(rules, key, f"{ours}/mlp{half}/{name}", linear, **every)
    for part, name in enumerate("qkv"):
        key = at + rf"self_attn\.linear_{name}"
        _pair(rules, key, f"{ours}/attn/qkv", linear, part=(part, 3), **every)
    _pair(rules, at + r"self_attn\.linear_out", f"{ours}/attn/out", linear, **every)
    for theirs, name in (("pos_bias_u", "seen_bias"), ("pos_bias_v", "place_bias")):
        rules.append(Rule(at + rf"self_attn\.{theirs}", f"{ours}/attn/{name}", **every))
    key = at + r"self_attn\.linear_pos\.weight"
    rules.append(Rule(key, f"{ours}/attn/place", linear, **every))
    _pair(rules, at + r"conv\.pointwise_conv1", f"{ours}/widen", _point, **every)
    _pair(rules, at + r"conv\.depthwise_conv", f"{ours}/conv", conv1d, **every)
    _pair(rules, at + r"conv\.pointwise_conv2", f"{ours}/narrow", _point, **every)
    return rules


def _transducer(layers: int) -> list[Rule]:
    ours = "transducer"
    rules = [Rule(r"decoder\.prediction\.embed\.weight", f"{ours}/embed/embedding")]
    for i in range(layers):
        at = r"decoder\.prediction\.dec_rnn\.lstm\."
        rules.append(Rule(at + f"weight_ih_l{i}", f"{ours}/lstm_{i}/input/kernel", linear))
        rules.append(Rule(at + f"weight_hh_l{i}", f"{ours}/lstm_{i}/recurrent", linear))
        for part, side in enumerate(("ih", "hh")):
            key = at + f"bias_{side}_l{i}"
            rules.append(Rule(key, f"{ours}/lstm_{i}/input/bias", part=(part, 2), merge="sum"))
    for theirs, name in (("enc", "heard"), ("pred", "said"), (r"joint_net\.2", "head")):
        _pair(rules, rf"joint\.{theirs}", f"{ours}/{name}", linear)
    return rules


def _is_fastconformer(keys: frozenset[str], config: Config) -> bool:
    del config
    return any(
        key.endswith(("pre_encode.conv.0.weight", "encoder.subsampling.conv_in.weight"))
        for key in keys
    )


def _told(config: Config, nemo: bool) -> Fields:
    """The fields that no weight shows."""
    if not nemo:
        said = settings(config, FAMILY, ENCODER, "encoder_config")
        if said["hidden_act"] != "silu":
            raise ConvertError(f"{FAMILY}: only silu is known, not {said['hidden_act']!r}")
        most = (config or {}).get("max_symbols_per_step", 10)
        return dict(
            before=said["sliding_window"] - 1,
            ahead=said["default_num_lookahead_tokens"],
            scaled=said["scale_input"],
            most=most,
        )
    part = (config or {}).get("encoder")
    seen: Any = part.get("att_context_size") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(seen, Sequence) or not seen:
        raise ConvertError(
            f"{FAMILY}: no encoder.att_context_size in a config.json beside the weights; write"
            " NeMo's model_config.yaml as config.json into the same folder"
        )
    said = NEMO | dict(part)
    bad = [f"{key} {said[key]!r}" for key in NEMO if key != "xscaling" and said[key] != NEMO[key]]
    if bad:
        raise ConvertError(
            f"{FAMILY}: {', '.join(bad)}: a model that is not cache-aware does not stream"
        )
    before, ahead = seen[0] if isinstance(seen[0], Sequence) else seen
    return dict(before=before, ahead=ahead, scaled=bool(said["xscaling"]))


def _plan(tensors: Tensors, config: Config) -> Plan:
    nemo = not any(".subsampling." in key for key in tensors)
    given = nemo_names(tensors)
    shape = lambda key: given[key].shape
    if "encoder.layers.0.conv.batch_norm.running_mean" in given:
        raise ConvertError(
            f"{FAMILY}: its convolutions have batch norms: an offline model (Parakeet), which does"
            " not stream"
        )
    depth = sum(key.endswith(".norm_out.weight") for key in given)
    rules, ignored = _encoder(depth), list(IGNORED)
    dim, hidden = shape("encoder.layers.0.feed_forward1.linear2.weight")
    channels = shape("encoder.pre_encode.conv.0.weight")[0]
    fields: Fields = dict(
        dim=dim,
        hidden=hidden,
        depth=depth,
        heads=shape("encoder.layers.0.self_attn.pos_bias_u")[0],
        bands=_bands(shape("encoder.pre_encode.out.weight")[1] // channels, config),
        channels=channels,
        kernel=shape("encoder.layers.0.conv.depthwise_conv.weight")[-1],
        **_told(config, nemo),
    )
    ctc, joint = "ctc_decoder.decoder_layers.0.weight", "joint.joint_net.2.weight"
    fields["ctc"], fields["layers"] = ctc in given, 0
    if ctc in given:
        _pair(rules, r"ctc_decoder\.decoder_layers\.0", "ctc_head", _point)
        fields["vocabulary"] = shape(ctc)[0] - 1
    if joint in given:
        key = "decoder.prediction.dec_rnn.lstm.weight_hh_l"
        fields["layers"] = sum(name.startswith(key) for name in given)
        fields["vocabulary"], fields["predictor"] = shape(joint)[0] - 1, shape(joint)[1]
        rules += _transducer(fields["layers"])
        if shape("joint.pred.weight")[0] != shape("joint.pred.weight")[1]:
            raise ConvertError(f"{FAMILY}: a joint network of another width than its predictor's")
    if not fields["ctc"] and not fields["layers"]:
        raise ConvertError(f"{FAMILY}: an encoder without a head; take the whole model's weights")
    return Plan("fastconformer-l", rules, fields, ignored, nemo_names)


def _bands(rows: int, config: Config) -> int:
    """Bands of a spectrum that leave ``rows`` after three strides."""
    part = (config or {}).get("encoder_config") or (config or {}).get("encoder") or {}
    bands = part.get("num_mel_bins", part.get("feat_in", 80))
    left = bands
    for _ in range(3):
        left = left // 2 + 1
    if left != rows:
        raise ConvertError(
            f"{FAMILY}: the config says {bands} bands, which leave {left} rows, and the weights"
            f" have {rows}"
        )
    return bands


register_converter(
    Converter(
        "fastconformer",
        _is_fastconformer,
        _plan,
        "cache-aware FastConformer: NeMo's tensors as safetensors, or nemotron_asr_streaming",
    )
)
