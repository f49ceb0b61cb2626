"""``python -m streamzoo.train.connector --data ../shared/data --seed 0``: pictures into words.

Encodes the frames once, learns the connector in two stages (all is kept under ``--out``, and not
made again: started anew it goes on), and says what it says of pictures that it did not learn from.
``--say FILE`` describes a picture or the first frame of a video instead.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ...zoo import load
from ...zoo.packages import installed
from ...zoo.registry import model_card
from ...zoo.text.decoder.model import Decoder
from ...zoo.text.tokenizer import Tokenizer
from ...zoo.videolm.describer import LANGUAGE, Describer, encoded
from ..data import video
from .learn import NAME, LearnConfig, Learner, captions
from .measure import commonest, probe, rates
from .pictures import SIZE, pictures


def main(argv: list[str] | None = None) -> int:
    """Learns and measures, or describes; the exit code."""
    p = argparse.ArgumentParser(prog="python -m streamzoo.train.connector", description=__doc__)
    add = p.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="folder of the sets")
    add("--out", type=Path, default=Path("runs/connector"), help="default: %(default)s")
    add("--seed", type=int, default=0)
    add("--steps", type=int, default=LearnConfig.steps, help="with the language model")
    add("--batch", type=int, default=LearnConfig.batch, help="default: %(default)s")
    add("--say", metavar="FILE", help="describe this; learn nothing")
    add("--weights", metavar="FILE", help="of --say (default: those of --out and --seed)")
    args = p.parse_args(argv)
    weights = args.weights or args.out / f"connector-seed{args.seed}.safetensors"
    if args.say:
        print(Describer.load(str(weights))(video.decode(args.say, SIZE)[:1])[0])
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    features, told = prepared(args.data, args.out / "features.npz")
    file = installed(model_card(LANGUAGE).source)
    tokenizer = Tokenizer.read(file)
    model, params = load(LANGUAGE, policy="full", context=64)
    assert isinstance(model, Decoder)
    held = np.array([t["held"] for t in told])
    said = captions(tokenizer, [t["caption"] for t in told], model.config.end)
    config = LearnConfig(steps=args.steps, batch=args.batch, seed=args.seed)
    learner = Learner(
        features[~held], said[~held], model, params, tokenizer, config, args.out,
        lambda text: print(text, flush=True),
    )  # fmt: skip
    first = learner.words()
    stages = {"words": first, "sentences": learner.sentences(first)}
    report: dict[str, Any] = {"model": NAME, "seed": args.seed, "learned": int((~held).sum())}
    common = commonest([(t["kind"], t["caption"]) for t in told if not t["held"]])
    test = [t for t in told if t["held"]]
    for stage, own in stages.items():
        describer = Describer(learner.net, own, model, params, tokenizer)
        spoken = []
        for at in range(0, len(test), 32):
            part = features[held][at : at + 32]
            full = np.concatenate([part, np.repeat(part[-1:], 32 - len(part), axis=0)])
            spoken += describer.of_features(full)[: len(part)]
        rows = [(t["kind"], t["caption"], s) for t, s in zip(test, spoken, strict=True)]
        report[stage] = rates(rows, common)
        lines = [f"{kind}\t{want}\t{s}" for kind, want, s in rows]
        (args.out / f"{stage}-seed{args.seed}.tsv").write_text("\n".join(lines) + "\n")
    report["probe"] = {
        kind: probe(
            mean(features, told, kind, False), answers(told, kind, False),
            mean(features, told, kind, True), answers(told, kind, True),
        )
        for kind in common
    }  # fmt: skip
    (args.out / f"report-seed{args.seed}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


def prepared(data: Path, kept: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """(features [N, 7, 7, 1280], what is told of each), read once."""
    if not kept.is_file():
        found = list(pictures(data))
        told = [{k: v for k, v in vars(one).items() if k != "frame"} for one in found]
        features = encoded(np.stack([one.frame for one in found]))
        np.savez(kept, features=features, told=json.dumps(told))
    with np.load(kept) as z:
        return z["features"], json.loads(str(z["told"]))


def mean(features: np.ndarray, told: list, kind: str, held: bool) -> np.ndarray:
    """[n, 1280] of one kind."""
    own = np.array([t["kind"] == kind and t["held"] == held for t in told])
    return features[own].mean(axis=(1, 2), dtype=np.float32)


def answers(told: list, kind: str, held: bool) -> list[str]:
    """The captions of one kind."""
    return [t["caption"] for t in told if t["kind"] == kind and t["held"] == held]


if __name__ == "__main__":
    raise SystemExit(main())
