"""A small demonstration student on UCF11, trained from scratch on a CPU.

    python -m streamzoo.configs.ucf11_student                          # from the repository's root
    python -m streamzoo.configs.ucf11_student --features FEATURES.npz  # as the bundled weights were
    python -m streamzoo.configs.ucf11_student --evaluate zoo/bundled/tsa-ti16.ucf11.safetensors

Needs ``pip install 'streamzoo[train]'``, and the archive and the detector under ../shared/data or
where ``--data`` and ``--detector`` say. Stopped runs go on from ``--out``.

Cost: 15 epochs are 1,290 steps of 16 clips x 3 frames, about 1.1 s of one CPU core each, 25
minutes; finding the boxes, once, takes some minutes more.

Expected, on the 316 test clips one frame at a time, with features of EfficientNet-Lite0 (ImageNet)
as a second teacher (on the labels of whole frames, a linear classifier on that teacher itself
reaches 75 %): whole-frame top-1 46 %, top-1 of given boxes 51 % (chance is 9 %); of YOLOX-nano's
persons the student finds 19 %, with 30 % of its own boxes right at IoU 0.5. It is there to show
the machinery on a real model, not to be relied on. Without features: not measured.

The feature file holds ``names`` [n] (``train.ucf11.members``) and ``maps`` [n, 5, h, w, F] float16.
The bundled weights used the last feature map (stride 32) at 192x256 pixels, centred, projected to
its first 256 principal directions and each of these divided by the fourth root of its variance.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import zoo
from ..train import fit as loop
from ..train import losses, ucf11
from ..train.augment import Augment, jitter_boxes, random_view
from ..train.evaluate import score
from ..zoo.registry import BUNDLED, Card
from ..zoo.weights import shapes_of

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number of the run.

    Attributes:
      features: .npz of an image teacher's feature maps (see ``train.ucf11.add_features``), "" to
        train without: worse, and not measured.
      depth: blocks; 4 of the architecture's 12, which is what a CPU trains in half an hour.
      frames: frames per clip and step. The streams go on from step to step, so that memories older
        than ``frames`` are trained too; each is reset with probability ``reset``.
      person_threshold: of the student's own boxes; the best F1 on training clips.
      sure: score from which a detector's box is a person.
    """

    data: str = "../shared/data/ucf11_5frames_160x120.zip"
    detector: str = "../shared/data/weights/yolox_nano_coco_416.onnx"
    features: str = ""
    out: str = "runs/ucf11"
    arch: str = "tsa-ti16"
    image_size: tuple[int, int] = (96, 128)
    depth: int = 4
    max_boxes: int = 8
    person_threshold: float = 0.4
    batch: int = 16
    frames: int = 3
    epochs: float = 15.0
    rate: float = 2e-3
    warmup: float = 0.05
    decay: float = 0.05
    ema: float = 0.998
    reset: float = 0.5
    sure: float = 0.4
    seed: int = 0
    augment: Augment = Augment()
    # weights of the losses
    frame: float = 1.0
    roi: float = 0.3
    objectness: float = 0.5
    edges: float = 0.5
    feature: float = 2.0

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(
            image_size=self.image_size,
            depth=self.depth,
            num_classes=len(ucf11.CLASSES),
            max_boxes=self.max_boxes,
            person_threshold=self.person_threshold,
        )


def card_of(recipe: Recipe) -> Card:
    """The card before anything is measured: what preprocessing needs."""
    return Card(
        f"{recipe.arch}/ucf11",
        summary="demonstration student: 11 sports and street actions, small frames",
        licence="research data, upstream terms not seen; for demonstration",
        paper="Liu, Luo, Shah, Recognizing Realistic Actions from Videos in the Wild (CVPR 2009)",
        input_size=recipe.image_size,
        classes=tuple(ucf11.CLASSES.values()),
        multi_label=False,
        weights=f"{recipe.arch}.ucf11.safetensors",
        overrides=recipe.overrides,
    )


def load_data(recipe: Recipe, split: str) -> ucf11.Clips:
    """A split with boxes; for training also features, if the recipe has them."""
    clips = ucf11.read_split(recipe.data, split, boxes=recipe.max_boxes)
    clips = ucf11.add_boxes(clips, recipe.detector, Path(recipe.out) / f"boxes_{split}.npz")
    if split == "train" and recipe.features:
        clips = ucf11.add_features(clips, recipe.features)
    return clips


def make_loss(model: Any, recipe: Recipe) -> loop.Loss:
    """The loss of one step; ``memory`` is the carry of the streams."""
    card, cfg = card_of(recipe), model.config
    grid = cfg.grid()

    def loss(params: Any, carry: Any, key: Array, batch: Any):
        keys = jax.random.split(key, 3)
        given = batch.frames, batch.boxes, batch.scores, batch.features
        view = random_view(keys[0], *given, recipe.augment, size=recipe.image_size, grid=grid)
        anew = jax.random.bernoulli(keys[1], recipe.reset, (len(batch.labels),))
        carry = jax.tree.map(
            lambda a: jnp.where(anew.reshape(-1, *[1] * (a.ndim - 1)), 0, a), carry
        )
        sure = view.scores >= recipe.sure
        student = {"params": params["student"]}
        carry, out = model.apply(
            student,
            carry,
            zoo.preprocess(view.frames, card),
            boxes=jitter_boxes(keys[2], view.boxes, recipe.augment.jitter),
            box_valid=sure,
            taps=("features",),
        )
        features = out.taps["features"]  # [B, T, h, w, D]
        flat = lambda a: a.reshape(-1, *a.shape[2:])  # noqa: E731
        persons = model.apply(student, flat(features), method=lambda m, x: m.person_head(x))
        objectness, edges = losses.person_loss(
            persons.objectness, persons.edges, flat(view.boxes), flat(view.scores), recipe.sure
        )
        labels = jnp.broadcast_to(batch.labels[:, None], out.logits.shape[:2])
        each = jnp.broadcast_to(batch.labels[:, None, None], sure.shape)
        parts = {
            "frame": losses.class_loss(out.logits, labels).mean(),
            "roi": losses.masked_mean(losses.multi_label_loss(out.box_logits, each), sure),
            "objectness": objectness,
            "edges": edges,
        }
        if view.features is not None:
            guess = features @ params["probe"]["kernel"] + params["probe"]["bias"]
            parts["feature"] = (
                losses.cosine_loss(guess, view.features).mean()
                + losses.cosine_loss(guess.mean((2, 3)), view.features.mean((2, 3))).mean()
            )
        total = jnp.stack([getattr(recipe, name) * value for name, value in parts.items()]).sum()
        right = (out.logits.argmax(-1) == labels).mean()
        return total, (carry, {**parts, "top1": right})

    return loss


def make_optimiser(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """Muon (orthogonalised momentum) on the blocks' matrices, AdamW on the rest: about half the
    steps of AdamW alone, which is what a CPU has. Warm-up, then cosine to zero."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.rate, max(1, int(recipe.warmup * steps)), steps
    )

    def matrices(params: Any) -> Any:
        def kind(path, leaf):
            # stacked over depth: [L, in, out]
            stacked = leaf.ndim == 3 and "blocks" in jax.tree_util.keystr(path)
            return optax.contrib.MuonDimensionNumbers((1,), (2,)) if stacked else None

        return jax.tree_util.tree_map_with_path(kind, params)

    return optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.contrib.muon(
            rate,
            weight_decay=recipe.decay,
            adam_weight_decay=recipe.decay,
            consistent_rms=0.2,  # updates of the size that AdamW makes, one rate for both
            muon_weight_dimension_numbers=matrices,
        ),
    )


def start(recipe: Recipe, clips: ucf11.Clips, steps: int):
    """(model, optimiser, first state)."""
    model, variables = zoo.init_params(recipe.arch, seed=recipe.seed, **recipe.overrides)
    params = {"student": variables["params"]}
    if clips.features is not None:
        width, wanted = model.config.dim, clips.features.shape[-1]
        kernel = jax.random.normal(jax.random.key(recipe.seed), (width, wanted)) / math.sqrt(width)
        params["probe"] = {"kernel": kernel, "bias": jnp.zeros(wanted)}
    optimiser = make_optimiser(recipe, steps)
    return model, optimiser, loop.start(params, optimiser, model.init_carry(recipe.batch))


def train(recipe: Recipe) -> tuple[Any, Any]:
    """Trains, or goes on from ``out``: (model, averaged variables)."""
    clips = load_data(recipe, "train")
    steps = int(recipe.epochs * (len(clips.labels) // recipe.batch))
    model, optimiser, state = start(recipe, clips, steps)
    state = loop.restore(Path(recipe.out) / "state.npz", state)
    step = loop.make_step(make_loss(model, recipe), optimiser, ema=recipe.ema, seed=recipe.seed)
    batches = ucf11.batches(clips, recipe.batch, recipe.frames, recipe.seed, start=int(state.step))
    print(f"{len(clips.labels)} clips, {steps} steps from {int(state.step)}", flush=True)
    log = lambda text: print(text, flush=True)  # noqa: E731
    state = loop.fit(step, state, batches, steps, folder=recipe.out, log=log)
    return model, {"params": state.average["student"]}


def main(argv: list[str] | None = None) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    for field in dataclasses.fields(Recipe):
        if isinstance(field.default, (str, int, float)):
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    parser.add_argument("--evaluate", metavar="FILE", help="only measure this weights file")
    parser.add_argument("--weights", default=str(BUNDLED), help="folder for weights and card")
    options = vars(parser.parse_args(argv))
    file, folder = options.pop("evaluate"), Path(options.pop("weights"))
    recipe = Recipe(**options)
    if file:
        model = zoo.create_model(recipe.arch, **recipe.overrides)
        print(score(model, stored(file, recipe), load_data(recipe, "test"), card_of(recipe)))
        return
    model, variables = train(recipe)
    write(recipe, model, variables, folder)


def stored(path: str | Path, recipe: Recipe) -> Any:
    """Variables of a weights file that the recipe wrote, whether its card is installed or not."""
    return zoo.load_weights(path, template=shapes_of(recipe.arch, **recipe.overrides))


def write(recipe: Recipe, model: Any, variables: Any, folder: Path) -> None:
    """Weights (float16), measured as they lie on disk, and their card."""
    card = card_of(recipe)
    path = folder / str(card.weights)
    digest = zoo.save(
        path, variables, {"model": card.name, "config": recipe.overrides}, dtype=np.float16
    )
    figures = score(model, stored(path, recipe), load_data(recipe, "test"), card)
    print(figures)
    carry = jax.eval_shape(lambda: model.init_carry(1))
    card = dataclasses.replace(
        card,
        sha256=digest,
        trained_on="UCF11, 5 frames a clip, 160x120, this recipe"
        + (" with EfficientNet-Lite0 (ImageNet) features as a teacher" if recipe.features else "")
        + "; persons from YOLOX-nano's boxes, not from human ones",
        carry_bytes=sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry)),
        metric=", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        + " on 316 test clips, one frame at a time; persons against YOLOX-nano at IoU 0.5",
        metric_command="python -m streamzoo.configs.ucf11_student "
        f"--evaluate zoo/bundled/{card.weights}",
    )
    path.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ucf11.DataError as error:
        raise SystemExit(f"error: {error}") from None
