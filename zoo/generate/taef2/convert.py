"""TAEF2 as published -> our parameters: a list of layers per half, by number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, Plan, Rule, register_converter
from ...rules import need
from ..taehv.convert import cells, conv, three

# their number -> ours; the lists also hold what has no parameters
ENCODER = {"pooled": (11, 12, 13), "convs": (0, 2, 6, 10)}
DECODER = {3: 0, 4: 1, 5: 2, 7: 3, 8: 4, 9: 5, 10: 6, 12: 7, 13: 8, 14: 9, 15: 10, 17: 11, 18: 12}


def _block(source: str, target: str, pooled: bool) -> list[Rule]:
    table = three(source, target)
    if pooled:
        table += [
            Rule(source + r"\.pool\.0\.weight", target + "/wide/kernel", cells),
            Rule(source + r"\.pool\.1\.weight", target + "/norm/scale"),
            Rule(source + r"\.pool\.1\.bias", target + "/norm/bias"),
            Rule(source + r"\.pool\.3\.weight", target + "/narrow/kernel", cells),
        ]
    return table


def rules() -> list[Rule]:
    """The table."""
    table = conv(r"encoder\.14", "latent") + conv(r"decoder\.1", "entry")
    table += conv(r"decoder\.19", "exit")
    for i in range(14):
        source, target = rf"encoder\.{i}", f"encoder_{i}"
        if i in ENCODER["convs"]:
            table += conv(source, target, bias=i == 0)
        else:
            table += _block(source, target, i in ENCODER["pooled"])
    for theirs, ours in DECODER.items():
        source, target = rf"decoder\.{theirs}", f"decoder_{ours}"
        if theirs in (7, 12, 17):
            table += conv(source, target, bias=False)
        else:
            table += _block(source, target, theirs in (3, 4, 5))
    return table


def _is_taef2(keys: frozenset[str], told: Config) -> bool:
    del told
    return {"decoder.3.pool.0.weight", "encoder.13.pool.0.weight", "decoder.19.weight"} <= keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    del told
    width, latent = need(tensors, "decoder.1.weight", "TAEF2").shape[:2]
    return Plan("taef2", rules(), dict(width=width, latent=latent))


register_converter(Converter("taef2", _is_taef2, _plan, "TAEF2, tiny autoencoder of FLUX.2"))
