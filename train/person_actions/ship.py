"""The learned action part as a named model: its own file holds no weights of the detector."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import zoo
from ...layers.streaming import Json, Params
from ...zoo.action.person import PersonConfig
from ...zoo.registry import BUNDLED
from ...zoo.resolve import stated
from ..metrics import figure

DETECTOR = "yolox-nano/coco"  # its weights are of this file


def ship(
    name: str, params: Params, person: PersonConfig, report: dict[str, Any], folder: Path = BUNDLED
) -> Path:
    """Writes ``name``, ``follow-act-nano/TAG``, and its card; the path of the weights.

    params: of the action part alone; report: figures for the card.
    """
    arch, _, tag = name.partition("/")
    rule = person.decision
    told = {f: getattr(rule, f) for f in ("temperature", "domain", "on", "off", "hold")}
    overrides: Json = {"person": {"decision": told}}
    if person.mix.kind != zoo.model_config(arch).person.mix.kind:
        overrides["person"]["mix"] = dataclasses.asdict(person.mix)
    base = zoo.model_card(arch)
    facts = {
        "summary": "persons, bicycles and cars with ids that last, and what each person does",
        "trained_on": "UT-Interaction, surveillance fights, GMDCSA-24; who walks and who stands "
        "from their tracks, without labels (detector: COCO train2017, by YOLOX's authors)",
        "metric": ", ".join(
            f"{key} {figure(report[key], '.3f')}"
            for key in ("ut_top1", "fight_auc", "gait") if report.get(key) is not None
        ),
        "metric_command": f"python -m streamzoo.train.person_actions --seed {report['seed']}",
    }  # fmt: skip
    file = folder / f"{arch}.{tag}.safetensors"
    header: Json = {
        "model": arch, "config": overrides, "parts": {"follow": DETECTOR},
        **stated(dataclasses.replace(base, **facts)),
    }  # fmt: skip
    tree = {"params": {"person": {"module": jax.device_get(params["params"])}}}
    digest = zoo.save(file, tree, header, dtype=np.float16)
    model: Any = zoo.create_model(arch, **overrides)
    carry = jax.eval_shape(lambda: model.init_carry(1))
    card = dataclasses.replace(
        base, name=name, tag=tag, weights=file.name, sha256=digest, overrides=overrides,
        carry_bytes=sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry)), **facts,
    )  # fmt: skip
    file.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")
    return file
