"""Silero VAD as published -> our parameters: its ONNX graph, or its safetensors file.

The two files of one release (silero-vad 6.2.3) hold different weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, Plan, Rule, conv1d, linear, register_converter

KEYS = ("stft_conv.weight", "lstm_cell.weight_ih", "final_conv.weight")
# the graph's names -> the safetensors file's
GRAPH = {
    "model.stft.forward_basis_buffer": "stft_conv.weight",
    **{
        f"model.encoder.{i}.reparam_conv.{part}": f"conv{i + 1}.{part}"
        for i in range(4)
        for part in ("weight", "bias")
    },
    **{
        f"model.decoder.rnn.{part}_{of}": f"lstm_cell.{part}_{of}"
        for part in ("weight", "bias")
        for of in ("ih", "hh")
    },
    **{f"model.decoder.decoder.2.{part}": f"final_conv.{part}" for part in ("weight", "bias")},
}
RULES = (
    Rule("stft_conv.weight", "basis", lambda x: x[:, 0].T),
    *(Rule(f"conv{i + 1}.weight", f"conv{i}_kernel", conv1d) for i in range(4)),
    *(Rule(f"conv{i + 1}.bias", f"conv{i}_bias") for i in range(4)),
    Rule("lstm_cell.weight_ih", "lstm/input/kernel", linear),
    Rule("lstm_cell.weight_hh", "lstm/recurrent", linear),
    Rule("lstm_cell.bias_ih", "lstm/input/bias", part=(0, 2), merge="sum"),
    Rule("lstm_cell.bias_hh", "lstm/input/bias", part=(1, 2), merge="sum"),
    Rule("final_conv.weight", "out/kernel", lambda x: x[..., 0].T),
    Rule("final_conv.bias", "out/bias"),
)


def _stored(told: Config) -> Mapping[str, np.ndarray]:
    return (told or {}).get("stored", {})


def _is_silero(keys: frozenset[str], told: Config) -> bool:
    return keys.issuperset(KEYS) or GRAPH.keys() <= _stored(told).keys()


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    graph = _stored(told)
    if not graph:
        return Plan("silero-vad", RULES)
    return Plan(
        "silero-vad",
        RULES,
        prepare=lambda _: {name: graph[theirs] for theirs, name in GRAPH.items()},
    )


register_converter(Converter("silero-vad", _is_silero, _plan, "Silero VAD, ONNX or safetensors"))
