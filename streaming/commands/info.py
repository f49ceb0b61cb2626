"""`streamzoo info`."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import textwrap
from typing import Any

from ...layers.streaming import Json

SUMMARY = "show a model's card, size and carry"
EXAMPLE = "streamzoo info tsa-s16"
NOTES = """
Of a weights file it shows what its header says: streamzoo info runs/mine/weights.safetensors"""

UNITS = {"speech": "samples", "text": "tokens"}  # what a model takes that takes no pictures


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("model", metavar="NAME", help="model name, or a weights file of ours")
    p.add_argument(
        "--budget",
        action="store_true",
        help="compile the step, too: multiply-accumulates, bytes and memory per frame, and what "
        "classes of devices could do at most by their data sheets",
    )
    p.add_argument(
        "--kernels",
        action="store_true",
        help="trace the step, too: for each layer which implementation it takes on a CPU, a GPU "
        "and a TPU and why no kernel; its blocks and fast memory, bytes and FLOPs",
    )


def run(args: argparse.Namespace) -> None:
    """Prints a card, and what only the built model knows: parameters and carry."""
    import jax

    from ...zoo import card_of, create_model, model_config, resolve
    from ...zoo.explain import explain_model
    from ...zoo.registry import is_registered
    from ...zoo.weights import shapes_of
    from ..budget import budget
    from ..devices import table

    card = card_of(args.model)
    fields = dict(card.overrides)
    config = model_config(card.name, **fields)
    params = sum(a.size for a in jax.tree.leaves(shapes_of(card.name, **fields)))
    facts: Json = {"name": card.name, "summary": card.summary, "task": card.task}
    if not is_registered(args.model):
        facts["weights"] = args.model
    elif card.pretrained:
        facts["weights"] = f"{card.weights or ''} {card.source}".strip()
    else:
        facts["weights"] = "none: an architecture to train, or to convert weights for"
    facts["parameters"] = f"{params:,}"
    takes = ""
    if card.streaming:
        model: Any = create_model(card.name, **fields)
        takes = model.inputs[0]
        carry = jax.tree.leaves(jax.eval_shape(lambda: model.init_carry(1)))
        size = sum(a.size * a.dtype.itemsize for a in carry)
        facts["carry"] = f"{size:,} bytes per stream, arrays: {len(carry)}"
        facts["latency"] = f"{model.latency} {UNITS.get(card.task, takes)}"
        if args.budget:
            own = None if is_registered(args.model) else resolve(args.model).params
            try:
                needed = budget(card, own)
                facts |= needed.lines() | {"int8 on": "; ".join(table(needed))}
            except ValueError as error:
                facts["budget"] = f"none: {error}"
    elif card.task == "generate":
        facts["carry"] = "constant in time, as the rollout says; see zoo/README.md"
    else:
        facts["carry"] = "none: offline, reads a whole clip"
    if card.task == "generate" and not takes:
        facts["input"] = "noise, and what is to be seen; see config"
    elif takes == "latents":
        facts["input"] = "latents of a video, one by one; frames come out"
    elif unit := UNITS.get(card.task):
        rate = f" of sound, {card.frame_rate:,.0f} a second" if card.frame_rate else ""
        facts["input"] = unit + rate
    else:
        height, width = card.input_size
        facts["input"] = f"{height} x {width} pixels (height x width), RGB"
        facts["mean, std"] = f"{', '.join(map(str, card.mean))}; {', '.join(map(str, card.std))}"
        facts["frame rate"] = f"{card.frame_rate:g} frames/s" if card.frame_rate else ""
    facts["classes"] = ", ".join(card.classes)
    if card.classes and card.task not in ("generate", "track"):
        many = "several classes at a time (sigmoid)"
        facts["scores"] = many if card.multi_label else "one (softmax)"
    for name in ("trained_on", "metric", "metric_command", "licence", "paper", "sha256"):
        facts[name.replace("_", " ")] = getattr(card, name)
    facts["config"] = ", ".join(
        f"{f.name}={getattr(config, f.name)!r}" for f in dataclasses.fields(config)
    )
    told: list[str] = []
    if args.kernels:
        try:
            told = str(explain_model(card)).splitlines()
            facts["kernels"] = "" if told else "none: no operation of it has a choice"
        except ValueError as error:
            facts["kernels"] = f"none: {error}"
    room = max(60, shutil.get_terminal_size((100, 24)).columns)
    for name, value in facts.items():
        if value:
            head = f"{name:14}  "
            wrap = textwrap.TextWrapper(
                room, head, " " * len(head), break_long_words=False, break_on_hyphens=False
            )
            print(wrap.fill(str(value)))
    for line in told:  # a line per layer and platform
        print(textwrap.fill(line, room, subsequent_indent=" " * 16, break_long_words=False))
