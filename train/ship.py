"""``python -m streamzoo.train.ship``: a trained student as a named model with its card.

Weights are stored as float16, without the frozen stem that they share with the encoder's own name,
and measured as they then lie on disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import zoo
from ..layers.streaming import Json
from ..zoo.encode.stems import PRETRAINED
from ..zoo.registry import BUNDLED, Card
from ..zoo.resolve import stated
from ..zoo.traits import stem_of
from . import settings
from .data.base import DataError
from .metrics import figure
from .track import TRUNK

EXAMPLE = """\
example:
  python -m streamzoo.train.ship runs/ucf11_student dsta-lite0/ucf11 --config ucf11_student
"""
# figures that belong on a card, in this order
TOLD = (
    "mAP", "top1", "top1_last", "top1_frame", "person_recall", "person_precision", "lookahead_s",
    "J&F", "J", "F", "anomaly_f1", "anomaly_auc", "abs_rel", "d1", "flicker",
)  # fmt: skip


def bundle(
    run: Path,
    name: str,
    recipe: Any,
    folder: Path = BUNDLED,
    *,
    overwrite: bool = False,
    **fields: Any,
) -> tuple[Card, dict[str, float]]:
    """Writes ``<arch>.<tag>.safetensors`` and its card into ``folder``: (card, figures).

    run: a folder with ``weights.safetensors``; fields: of the card, e.g. ``summary``, ``licence``.
    Raises DataError if the run is of another architecture, or a model of this name is there and
    not to be overwritten, and the errors of ``zoo.load``.
    """
    path = run / "weights.safetensors"
    if not path.is_file():
        raise DataError(f"no weights at {path}: give the folder of a finished run")
    model, variables, trained = zoo.resolve(path)
    arch, _, tag = name.partition("/")
    if trained.name != arch or not tag:
        raise DataError(f"{path} is a {trained.name}: its name is {trained.name}/TAG, not {name}")
    file = folder / f"{arch}.{tag}.safetensors"
    for there in (file, file.with_suffix(".json")):
        if there.exists() and not overwrite:
            raise DataError(f"{there}: is there already; --overwrite replaces it")
    config = dict(trained.overrides)
    stem = stem_of(model.config)
    # the architecture, so that the file also loads where this name is not known
    header: Json = {"model": arch, "config": config, **stated(trained)}
    params = dict(variables["params"])
    # another file has these
    shared = {"trunk": TRUNK} if "trunk" in params else {}
    shared |= {"stem": PRETRAINED[stem]} if stem in PRETRAINED else {}
    if shared:
        params = {name: value for name, value in params.items() if name not in shared}
        header["parts"] = shared
    digest = zoo.save(file, {"params": jax.device_get(params)}, header, dtype=np.float16)
    figures = recipe.evaluate_file(str(file))
    data = getattr(recipe, "test", None)  # a tracker has no classes, a live model other data
    test = data.features(recipe.cache, stem, zoo.model_card(arch)) if data else None
    classes = test.classes if test else trained.classes
    rate = test.frame_rate if test else trained.frame_rate
    carry = jax.eval_shape(lambda: model.init_carry(1))
    card = dataclasses.replace(
        trained,
        name=name,
        tag=tag,
        weights=file.name,
        sha256=digest,
        overrides=config,
        input_size=model.config.image_size,
        frame_rate=getattr(recipe, "frame_rate", rate),
        classes=tuple(classes),
        multi_label=test.multi_label if test else trained.multi_label,
        carry_bytes=sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry)),
        metric=", ".join(f"{k} {figure(figures[k], '.3f')}" for k in TOLD if k in figures),
        **fields,
    )
    file.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")
    return card, figures


def main(argv: list[str] | None = None, prog: str = "python -m streamzoo.train.ship") -> int:
    """Runs the command line; returns the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog, description=__doc__, epilog=EXAMPLE, formatter_class=layout
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a finished run")
    add("name", help="ARCHITECTURE/TAG")
    add("--config", required=True, help="the config of the run: its test data measure the model")
    add("--set", metavar="A.B=C", action="append", default=[], dest="settings", nargs="+")
    add("--folder", type=Path, default=BUNDLED, help="default: the package's own models")
    add("--overwrite", action="store_true", help="replace a model of this name")
    for field in ("summary", "licence", "paper", "trained_on", "metric_command"):
        add(f"--{field.replace('_', '-')}", default=None)
    options = vars(parser.parse_args(argv))
    run, name, folder = options.pop("run"), options.pop("name"), options.pop("folder")
    try:
        recipe = settings.load_config(options.pop("config"))
        changes = [one for group in options.pop("settings") for one in group]
        recipe = settings.override(recipe, changes)
        fields = {k: v for k, v in options.items() if v is not None}
        card, figures = bundle(run, name, recipe, folder, **fields)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder / str(card.weights)}: {card.metric}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
