"""The clips that person actions are learned and measured on, and what is true of their tracks.

Three sets with labels: UT-Interaction (two persons do something to each other), a set of
surveillance fights, and GMDCSA-24 (falls and daily acts, with start and end). Nobody labels who
walks and who stands there: where the camera stands still, the track itself tells (:func:`gait`).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...zoo.track.follow.names import ACTIONS as ACTIONS
from ..data.base import DataError, need
from ..data.ut_interaction import parse
from .tracks import Followed, Track, followed

NOTHING, WALKING, STANDING, SITTING, FALLING, FIGHTING = range(6)
# UT-Interaction's numbers: kicking, punching and pushing are fighting; 6 is background
UT = {0: 7, 1: 6, 2: FIGHTING, 3: 8, 4: FIGHTING, 5: FIGHTING, 6: NOTHING}
# an act of a segment beats those after it; others are not told apart
SEGMENTS = {"fall": FALLING, "walking": WALKING, "sitting": SITTING, "standing": STANDING}
TRAIN, HELD, TEST = "train", "held", "test"
UT_HELD, UT_TEST = (6, 16), (7, 8, 17, 18)  # sequences
RATES = {"ut": 10.0, "fight": 7.5, "fall": 15.0, "other": 10.0}  # frames/s


Read = Callable[[str, Path, float], "Followed | None"]


class Labelled(NamedTuple):
    """A clip with what is true of it.

    truth: number of the action that somebody in it does at some time; -1: see the labels.
    labels: of each track [N] int, per frame an action or -1 where nothing is known of it.
    group: what must not be on both sides: a sequence, a source, a subject.
    """

    clip: Followed
    set: str
    group: str
    part: str
    truth: int
    labels: list[np.ndarray]
    segments: tuple[tuple[int, float, float], ...] = ()  # (action, start, end) in seconds


def labelled(
    data: Path, folder: Path, subject: str = "s1", *, kept: bool = False
) -> list[Labelled]:
    """All clips. ``data``: the folder of the sets; ``folder``: where tracks are kept; ``subject``:
    of GMDCSA-24, who is tested; ``kept``: only videos whose tracks are there already. Raises
    DataError where a set is missing."""
    read = _reader(folder, kept)
    return [*_interactions(data, read), *_fights(data, read), *_falls(data, read, subject)]


def _reader(folder: Path, kept: bool) -> Callable[[str, Path, float], Followed | None]:
    def read(name: str, path: Path, rate: float) -> Followed | None:
        if kept and not (folder / f"{name}.npz").is_file():
            return None
        return followed(name, path, rate, folder)

    return read


def _interactions(data: Path, read: Read) -> list[Labelled]:
    found = []
    for number in (1, 2):
        where = need(data / "ut_interaction" / f"set{number}", "UT-Interaction", "see its page")
        for path in sorted(where.glob("*.avi")):
            _, sequence, act = parse(path)
            clip = read(f"ut{number}_{path.stem}", path, RATES["ut"])
            if clip is None:
                continue
            part = TEST if sequence in UT_TEST else HELD if sequence in UT_HELD else TRAIN
            truth = UT[act]
            labels = [_told(t, clip.rate, truth) for t in clip.tracks]
            found.append(Labelled(clip, "ut", str(sequence), part, truth, labels))
    return found


def _fights(data: Path, read: Read) -> list[Labelled]:
    found, base = [], need(data / "surv_fight", "the surveillance fights", "see its page")
    for row in _rows(base / "labels.csv"):
        path = base / "clips" / f"{row['video']}.mp4"
        clip = read(f"sf_{path.stem}", path, RATES["fight"])
        if clip is None:
            continue
        # by the video that it was cut from, whichever its class
        draw = int(hashlib.sha256(row["source"].encode()).hexdigest(), 16) % 20
        part = TEST if draw < 5 else HELD if draw < 8 else TRAIN
        truth = FIGHTING if row["class"] == "fight" else NOTHING
        labels = [_told(t, clip.rate, truth) for t in clip.tracks]
        found.append(Labelled(clip, "fight", row["source"], part, truth, labels))
    return found


def _falls(data: Path, read: Read, subject: str) -> list[Labelled]:
    found, base = [], need(data / "gmdcsa24", "GMDCSA-24", "see its page")
    segments = _rows(base / "segments.csv")
    for row in _rows(base / "labels.csv"):
        path = base / "clips" / f"{row['video']}.mp4"
        clip = read(f"gm_{path.stem}", path, RATES["fall"])
        if clip is None:
            continue
        mine = [s for s in segments if s["video"] == row["video"] and s["class"] in SEGMENTS]
        mine.sort(key=lambda s: [*SEGMENTS].index(s["class"]), reverse=True)
        acts = [(SEGMENTS[s["class"]], float(s["start_s"]), float(s["end_s"])) for s in mine]
        labels = []
        for track in clip.tracks:
            label = np.full(len(track.time), -1)
            for act, start, end in acts:
                now = track.time / clip.rate
                label[(now >= start) & (now <= end)] = act
            labels.append(label)
        part = TEST if row["subject"] == subject else TRAIN
        found.append(Labelled(clip, "fall", row["subject"], part, -1, labels, tuple(acts)))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with need(path, "a table of clips", "it belongs beside them").open(newline="") as file:
        return list(csv.DictReader(file))


def _told(track: Track, rate: float, truth: int) -> np.ndarray:
    """Where a clip says that nothing happens: who walks, who stands, the rest does nothing. Where
    it says that something does, nothing of a single track: it may be anybody's."""
    label = np.full(len(track.time), -1)
    if truth == NOTHING:
        label = gait(track, rate)
        label[(label < 0) & (np.arange(len(label)) % 2 == 0)] = NOTHING
    return label


def gait(track: Track, rate: float) -> np.ndarray:
    """Who walks and who stands, [N]: WALKING, STANDING or -1, by the path of the box in the second
    around each frame, in heights of the person. Right only before a camera that stands still.

    It looks ahead, as a teacher may. Not told: who is not upright, not wholly in the picture, runs
    or rides (faster than 1.2 heights a second), or does something between the two.
    """
    box, time = track.crops.boxes.astype(np.float64), track.time / rate
    height, width = box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]
    feet = np.stack([(box[:, 0] + box[:, 2]) / 2, box[:, 3]], axis=1)
    out = np.full(len(time), -1)
    for k, now in enumerate(time):
        near = np.flatnonzero(np.abs(time - now) <= 0.5)
        span = time[near[-1]] - time[near[0]]
        if span < 0.7 or box[k, 3] > 0.98 or box[k, 1] < 0.01 or track.scores[k] < 0.5:
            continue
        steps = np.diff(feet[near], axis=0)
        way = np.linalg.norm(feet[near[-1]] - feet[near[0]]) / height[k] / span
        path = np.linalg.norm(steps, axis=1).sum() / height[k] / span
        grown = abs(np.log(height[near[-1]] / height[near[0]]))
        if height[k] > 1.6 * width[k] and 0.25 < way < 1.2 and way > 0.7 * path:
            out[k] = WALKING
        elif height[k] > 2.0 * width[k] and way < 0.06 and path < 0.25 and grown < 0.04:
            out[k] = STANDING
    return out


def part_of(stem: str) -> str:
    """Whether a decision is fitted to a video of other things; never to the two street clips."""
    draw = int(hashlib.sha256(stem.encode()).hexdigest(), 16) % 2
    return TEST if draw or "vtest" in stem or stem == "bikes" else TRAIN


def others(data: Path, folder: Path, *, kept: bool = False) -> list[tuple[Followed, str]]:
    """Videos of other things, each TRAIN (fitted to) or TEST: sign language, sports, a room,
    arm wrestling, a table. Raises DataError where there are none."""
    clips, found = need(data / "clips", "clips of other things", "see its page"), []
    read = _reader(folder, kept)
    paths = [*sorted((clips / "asl_gestures").glob("*.mkv"))]
    paths += sorted((data / "ucf101_24" / "clips").glob("*.mp4"))
    paths += sorted((data / "fir_action" / "rgb").glob("*.mp4"))
    paths += sorted(clips.glob("*.mp4"))
    if not paths:
        raise DataError(f"{clips}: no clips in it")
    names = {"asl_gestures": "asl_", "clips": "", "rgb": "fir_"}
    for path in paths:
        kind = "u24_" if path.parts[-3] == "ucf101_24" else names[path.parent.name]
        clip = read(f"ood_{kind}{path.stem}", path, RATES["other"])
        if clip is not None:
            found.append((clip, part_of(path.stem)))
    return found
