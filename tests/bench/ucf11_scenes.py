"""Which training groups of UCF11 show a scene of its test split: the search behind ``LEAKED``.

    pip install opencv-python-headless
    python tests/bench/ucf11_scenes.py           # results/ucf11_scenes.{json,md}, some minutes

Within a class every training group is compared with every test group, all of the archive's frames
by ``train/data/scenes.py`` (thumbnails and colours), three frames a clip by SIFT: features of
frames at twice their size that are nearer to one feature than to three quarters of the distance to
the next, as many as one turn, shift and scale takes into each other (RANSAC, 4 pixels). Six are a
scene; four and five were looked at.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
SURE, MAYBE = 6, 4  # matches
PRICE = (
    "What it was worth: the bundled student that had learned with 23 of these groups (13 were left "
    "out already) had 91.3 % top-1 on the 69 test clips of their scenes and 71.7 % on the other "
    "247, 75.9 % in all. The one that learned without them has 75.4 %, 71.3 % and 72.2 %."
)


def groups(archive: str) -> dict[str, dict[str, np.ndarray]]:
    """Split -> group -> frames [N, 120, 160, 3], five a clip, LEAKED ones included."""
    from PIL import Image

    from streamzoo.train.data import ucf11

    found: dict[str, dict[str, list]] = {"train": {}, "test": {}}
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if n.endswith(".jpg"))
        clips = {}  # some are cut twice, into two folders
        for name in names:
            split, word = name.split("/")[0], name.rpartition("/")[2]
            clips.setdefault((split, word), name)
        for (split, word), name in clips.items():
            group = "_".join(ucf11.group(word.rpartition("_")[0]))
            picture = Image.open(io.BytesIO(file.read(name))).convert("RGB")
            found[split].setdefault(group, []).append(np.asarray(picture))
    return {s: {g: np.stack(f) for g, f in sorted(of.items())} for s, of in found.items()}


def features(cv2: Any, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points [n, 2] and RootSIFT descriptors [n, 128] of every frame with at least six."""
    sift, found = cv2.SIFT_create(nfeatures=250, contrastThreshold=0.03), []
    for frame in frames:
        grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (320, 240))
        points, described = sift.detectAndCompute(grey, None)
        if described is None:
            continue
        at = np.asarray([p.pt for p in points], np.float32)
        inside = (abs(at - (160, 120)) < (144, 108)).all(axis=1)  # not a black frame's edge
        if inside.sum() >= SURE:
            each = described[inside]
            each = np.sqrt(each / np.maximum(each.sum(axis=1, keepdims=True), 1e-6))
            found.append((at[inside], each.astype(np.float32)))
    return found


def matches(cv2: Any, one: tuple, other: tuple) -> int:
    """Features of two frames that one turn, shift and scale takes into each other."""
    if len(other[1]) < 3:
        return 0
    near = one[1] @ other[1].T
    two = np.argpartition(-near, 1, axis=1)[:, :2]
    cosine = np.take_along_axis(near, two, axis=1)
    first = two[np.arange(len(two)), cosine.argmax(axis=1)]
    distance = 2 - 2 * np.sort(cosine, axis=1)
    good = distance[:, 1] < 0.75**2 * distance[:, 0]
    if good.sum() < SURE:
        return 0
    here, there = one[0][good], other[0][first[good]]
    turn, kept = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=4)
    if turn is None or not 0.4 < np.hypot(turn[0, 0], turn[1, 0]) < 2.5:
        return 0
    return len(np.unique(np.round(there[kept.ravel() > 0] / 4), axis=0))


def search(archive: str) -> dict[str, dict[str, Any]]:
    """ "train group|test group" -> figures, of all pairs that any measure names or doubts."""
    import cv2  # pyright: ignore[reportMissingImports]

    from streamzoo.train.data import scenes, ucf11

    split = groups(archive)
    plain = {s: {g: scenes.described(f) for g, f in of.items()} for s, of in split.items()}
    three = lambda f: np.concatenate([f[i::5] for i in (0, 2, 4)])
    points = {s: {g: features(cv2, three(f)) for g, f in of.items()} for s, of in split.items()}
    found: dict[str, dict[str, Any]] = {}
    for number, (test, theirs) in enumerate(points["test"].items()):
        for train, mine in points["train"].items():
            if ucf11.group(test + "_0")[0] != ucf11.group(train + "_0")[0]:
                continue
            count = max((matches(cv2, a, b) for a in mine for b in theirs), default=0)
            pair = scenes.likeness(plain["train"][train], plain["test"][test])
            if pair.same or count >= MAYBE or pair.colours > 0.93:
                found[f"{train}|{test}"] = {
                    "thumbnail": round(pair.thumbnail, 3), "colours": round(pair.colours, 3),
                    "matches": count, "measured": pair.same or count >= SURE,
                    "left_out": train in ucf11.LEAKED,
                }  # fmt: skip
        print(f"{number + 1} of {len(points['test'])} test groups", flush=True)
    return found


def report(found: dict[str, dict[str, Any]]) -> str:
    """The table as Markdown."""
    from streamzoo.train.data.ucf11 import LEAKED

    named = {pair.split("|")[0] for pair, row in found.items() if row["left_out"]}
    lines = [
        "# Scenes of UCF11 on both sides of its split", "",
        "Made by `tests/bench/ucf11_scenes.py`, whose head states the measures. "
        f"{len(LEAKED)} training groups are left out, {len(named)} of them named below; the last "
        "column says for which pairs a measure is above its threshold. By a look at all frames of "
        f"their class, without a measure: {', '.join(sorted(LEAKED - named)) or 'none'}.", "",
        "| training group | test group | thumbnail | colours | SIFT matches | |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines[3:3] = ["", PRICE]
    for pair, row in sorted(found.items(), key=lambda item: -item[1]["matches"]):
        why = "measured" if row["measured"] else "looked at: another scene"
        if row["left_out"] and not row["measured"]:
            why = "looked at, or of a group that is left out"
        lines.append(
            f"| {' | '.join(pair.split('|'))} | {row['thumbnail']:.3f} | {row['colours']:.3f} "
            f"| {row['matches']} | {why} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--archive", default="../shared/data/ucf11_5frames_160x120.zip")
    options = parser.parse_args()
    found = search(options.archive)
    (RESULTS / "ucf11_scenes.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "ucf11_scenes.md").write_text(report(found))


if __name__ == "__main__":
    main()
