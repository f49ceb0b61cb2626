"""Lines that converter tables have in common: dense layers, norms, fused projections.

``source`` is a regex up to and without ``.weight``; ``target`` our path up to and without
``/kernel``; ``stack`` as in :class:`~streamzoo.zoo.convert.Rule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any

import numpy as np

from ..layers.streaming import Fields
from . import registry
from .convert import ConvertError, Plan, Rule, conv2d, linear


def norm_rules(source: str, target: str, stack: int | None = None) -> list[Rule]:
    """A LayerNorm: weight and bias -> scale and bias."""
    return [
        Rule(source + r"\.weight", target + "/scale", stack=stack),
        Rule(source + r"\.bias", target + "/bias", stack=stack),
    ]


def dense_rules(
    source: str, target: str, stack: int | None = None, bias: bool = True
) -> list[Rule]:
    """A torch.nn.Linear -> Dense."""
    rules = [Rule(source + r"\.weight", target + "/kernel", linear, stack=stack)]
    return rules + [Rule(source + r"\.bias", target + "/bias", stack=stack)] * bias


def qkv_rules(
    layer: str,
    target: str,
    names: Sequence[str],
    stack: int | None = None,
    biased: str = "qkv",
) -> list[Rule]:
    """Three Linear layers, ``layer`` + each of ``names`` (queries, keys, values), -> one.

    ``biased``: which of them have a bias, as in :class:`~streamzoo.layers.transformer.Attention`.
    """
    rules = []
    for part, name in enumerate(names):
        source = layer + name + r"\.weight"
        rules.append(Rule(source, target + "/kernel", linear, stack=stack, part=(part, 3)))
    for part, letter in enumerate(biased):
        name, place = names["qkv".index(letter)], (part, len(biased))
        rules.append(Rule(layer + name + r"\.bias", target + "/bias", stack=stack, part=place))
    return rules


def patch_kernel(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv2d weight [O, 3, p, p] of stride p -> dense kernel [p * p * 3, O]."""
    return conv2d(x).reshape(-1, x.shape[0])


def need(tensors: Mapping[str, np.ndarray], key: str, family: str) -> np.ndarray:
    """One tensor. Raises ConvertError where it is missing."""
    if key not in tensors:
        raise ConvertError(f"a {family} checkpoint without {key}: is the file complete?")
    return tensors[key]


def depth_of(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    """The number of layers, from keys such as prefix + "11.…" (a gap is reported later)."""
    found = {k[len(prefix) :].split(".", 1)[0] for k in tensors if k.startswith(prefix)}
    return 1 + max((int(n) for n in found if n.isdigit()), default=-1)


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


def activation_of(config: Mapping[str, Any]) -> str:
    """Our name of transformers' ``hidden_act``. Raises ConvertError for one we lack."""
    name = config["hidden_act"]
    if name not in ACTIVATIONS:
        raise ConvertError(f"hidden_act {name!r}: not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def nearest_plan(
    patterns: Sequence[str],
    fields: Mapping[str, Any],
    rules: Sequence[Rule],
    ignore: Sequence[str] = (),
    **more: Any,
) -> Plan:
    """The plan of the registered architecture whose config is most like ``fields``.

    patterns: of names, as in ``list_models``; on a tie the earlier one wins
    fields:   what the checkpoint says of the config; all that differs becomes an override
    """
    order = {n: i for i, p in enumerate(patterns) for n in registry.list_models(p) if "/" not in n}
    known = set(fields)
    configs = {n: registry.model_config(n) for n in order}
    fitting = {n: c for n, c in configs.items() if known <= {f.name for f in fields_of(c)}}
    if not fitting:
        raise ConvertError(f"no registered model among {', '.join(patterns)} has such a config")

    def differing(name: str) -> Fields:
        return {k: v for k, v in fields.items() if getattr(fitting[name], k) != v}

    def distance(name: str) -> tuple[float, ...]:
        width = getattr(fitting[name], "dim", 0)
        return len(differing(name)), order[name], abs(width - fields.get("dim", width))

    best = min(fitting, key=distance)
    return Plan(best, rules, differing(best), ignore, **more)
