"""Frame-mAP against the official evaluators' own numbers and against a slow, obvious form."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.metrics import (
    VARIANTS,
    frame_map,
    read_csv,
    read_excluded,
    read_labels,
    rows,
)
from streamzoo.train.metrics.__main__ import main

# Numbers of the unchanged official programs on case(seed); README in the file says how.
GOLDEN = json.loads((Path(__file__).parent / "data" / "ava_official.json").read_text())
AVA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ava"
CLASSES = {c: f"action {c}" for c in range(1, 15) if c not in (4, 9)}  # a map with gaps
SEEDS = range(32)


def case(seed: int):
    """Truth, detections and exclusions that visit the evaluators' corners; same for each seed."""
    rng = np.random.default_rng(seed)
    crowded, tied, twins = seed % 2 == 0, seed % 3 == 0, seed % 4 == 1
    inverted, flat, fractions = seed % 6 == 5, seed % 5 == 2, seed % 8 == 3
    coarse = seed % 7 == 6  # overlaps of 0.5 to the last bit
    quantum = 10 if tied else 10**6
    truth, found, keyframes = [], [], []
    for video in ("aaa", "bb,b", "ccc"):
        for second in range(902, 911):
            time = second + (0.25 * (second % 2) if fractions else 0)
            keyframes.append((video, time))
            labelled = rng.random() < 0.75
            persons = rng.integers(1, 8 if crowded else 4)
            if not labelled and rng.random() < 0.5:
                truth.append((video, time, [math.nan] * 4, 0, 1.0))
            persons_seen = 0 if rng.random() < 0.1 else persons  # or no detections here
            for person in range(persons):
                corner = rng.uniform(0, 0.5, 2)
                box = np.concatenate([corner, corner + rng.uniform(0.15, 0.5, 2)])
                box = box.clip(0, 1).round(1 if coarse else 3)
                level = flat and rng.random() < 0.2  # a true box without area
                box[3] = box[1] if level else box[3]
                labels = rng.choice(np.arange(1, 13), rng.integers(1, 4), replace=False)
                for label in labels if labelled else ():
                    truth.append((video, time, box, int(label), float(person % 3)))
                    if twins and rng.random() < 0.3:
                        truth.append((video, time, box, int(label), float(person % 2)))
                if person >= persons_seen:
                    continue
                seen = (box + rng.normal(0, 0.04, 4)).round(1 if coarse else 4)
                seen[3] = seen[1] if level else seen[3]
                if flat and rng.random() < 0.2:
                    seen[2] = seen[0]
                if inverted and rng.random() < 0.1:
                    seen = seen[[2, 1, 0, 3]]
                for label in range(1, 15):  # 13 and 14 never are in the truth
                    right = labelled and label in labels
                    score = rng.beta(4, 2) if right else rng.beta(2, 4)
                    score = np.round(score * quantum) / quantum
                    if label != 11 and rng.random() < 0.8:  # 11 is in the truth, never detected
                        found.append((video, time, seen, label, score))
                        if twins and rng.random() < 0.2:
                            found.append(found[-1])
    rng.shuffle(found)
    chosen = rng.choice(len(keyframes), 3, replace=False)
    excluded = [keyframes[i] for i in chosen] if seed % 3 == 1 else []
    return rows(*zip(*truth, strict=True)), rows(*zip(*found, strict=True)), excluded


def digest(seed: int) -> str:
    truth, found, excluded = case(seed)
    parts = [r[f].tolist() for r in (truth, found) for f in ("time", "box", "label", "score")]
    return hashlib.sha256(repr((parts, excluded)).encode()).hexdigest()[:16]


def options(name: str) -> dict:
    """Variant and option from a name in the golden file."""
    return {"variant": name.split("/")[0], "ignore_empty_frames": not name.endswith("/all-frames")}


def write(path: Path, records: np.ndarray, score: bool = True) -> Path:
    lines = []
    for video, time, box, label, value in records.tolist():
        video = f'"{video}"' if "," in video else video
        line = f"{video},{time:g}"
        if label:
            line += (
                "".join(f",{x!r}" for x in box.tolist())
                + f",{label}"
                + (f",{value!r}" if score else "")
            )
        lines.append(line + "\n")
    path.write_text("".join(lines))
    return path


# -- the official evaluators ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_every_variant_equals_the_official_evaluator(seed, monkeypatch):
    assert digest(seed) == GOLDEN["digest"][str(seed)], "the random cases are not those scored"
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda a, **_: argsort(a, kind="stable"))
    truth, found, excluded = case(seed)
    for name, expected in GOLDEN["cases"][str(seed)].items():
        leave = [] if name == "activitynet-head" else excluded
        if isinstance(expected, str):  # the original raises this
            with pytest.raises(DataError, match="inside out|whole second"):
                frame_map(truth, found, classes=CLASSES, excluded=leave, **options(name))
            continue
        ours = frame_map(truth, found, classes=CLASSES, excluded=leave, **options(name))
        assert list(ours.per_class) == list(CLASSES)
        wanted = np.array([math.nan if x is None else x for x in expected])
        np.testing.assert_allclose(
            [ours.mean, *ours.per_class.values()], wanted, rtol=0, atol=1e-9, err_msg=name
        )


def test_the_goldens_visit_what_they_should():
    scored = {}
    for cases in GOLDEN["cases"].values():
        for name, figures in cases.items():
            scored[name] = scored.get(name, 0) + isinstance(figures, list)
    assert {name.split("/")[0] for name in scored} == set(VARIANTS)
    assert min(scored.values()) >= 20
    count: dict[str, int] = {}
    for seed in range(6):
        truth, found, excluded = case(seed)
        for variant in ("activitynet-head", "activitynet-2019"):
            leave = excluded if variant.endswith("2019") else []
            if seed != 3:  # fractions of a second
                result = frame_map(truth, found, variant=variant, classes=CLASSES, excluded=leave)
                for key, value in result.counts.items():
                    count[key] = max(count.get(key, 0), value)
    assert all(count.values()), count


# -- the obvious form -----------------------------------------------------------------------------


def obvious(name: str, truth, found, excluded) -> dict[int, float]:
    """Loops over keyframes and boxes, AP by its definition. Wants scores that differ."""
    left_out = set(excluded)
    counts_excluded = name.startswith("mmaction2")
    real = [r for r in plain(truth) if r[3] in CLASSES]
    said = [r for r in plain(found) if r[3] in CLASSES and r[:2] not in left_out]
    if name == "activitynet-head":
        said = [r for r in said if r[:2] in {t[:2] for t in plain(truth)}]
    if name == "mmaction2":
        said = [r for r in said if r[:2] in {t[:2] for t in real}]
    out = {}
    if name.startswith("activitynet"):
        capped = []
        for keyframe in {r[:2] for r in said}:
            here = [r for r in said if r[:2] == keyframe]
            capped += sorted(here, key=lambda r: -r[4])[:50]
        said = capped
    for c in CLASSES:
        free = [r for r in real if r[3] == c and r[:2] not in left_out]
        positives = sum(r[3] == c and (counts_excluded or r[:2] not in left_out) for r in real)
        ranks = []
        # In the order of the file SlowFast claims boxes; the others from the best score down.
        mine = [r for r in said if r[3] == c]
        if name != "slowfast":
            mine.sort(key=lambda r: -r[4])
        for video, time, box, _, score in mine:
            empty = box[0] >= box[2] or box[1] >= box[3]
            if empty and not name.startswith("mmaction2"):
                continue
            best = max(
                (t for t in real if t[3] == c and t[:2] == (video, time)),
                key=lambda t: overlap(t[2], box),
                default=None,
            )
            hit = best is not None and overlap(best[2], box) >= 0.5 and best in free
            if hit:
                free.remove(best)
            ranks.append((score, hit))
        ranks.sort(key=lambda r: -r[0])
        precision = [sum(h for _, h in ranks[: n + 1]) / (n + 1) for n in range(len(ranks))]
        recalled = [sum(h for _, h in ranks[: n + 1]) for n in range(len(ranks))]
        area = 0.0
        for k in range(1, positives + 1):
            area += max((p for p, r in zip(precision, recalled, strict=True) if r >= k), default=0)
        out[c] = area / positives if positives else math.nan
        if name.startswith("mmaction2") and not mine:
            out[c] = math.nan
    return out


def plain(records) -> list[tuple]:
    return [(v, t, tuple(b.tolist()), c, s) for v, t, b, c, s in records.tolist()]


def overlap(a, b) -> float:
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union else 0.0


@pytest.mark.parametrize("name", [*VARIANTS, "mmaction2/all-frames"])
@pytest.mark.parametrize("seed", [4, 10, 14])  # neither tied nor equal boxes nor fractions
def test_every_variant_equals_the_obvious_form(name, seed):
    truth, found, excluded = case(seed)
    leave = [] if name == "activitynet-head" else excluded
    ours = frame_map(truth, found, classes=CLASSES, excluded=leave, **options(name))
    slow = obvious(name, truth, found, leave)
    np.testing.assert_allclose(
        list(ours.per_class.values()), list(slow.values()), rtol=0, atol=1e-12
    )
    assert ours.mean == pytest.approx(np.nanmean(list(slow.values())), abs=1e-12)


# -- the traps, one at a time ---------------------------------------------------------------------

BOX = [0.1, 0.1, 0.5, 0.9]


def small(found: list[tuple], truth: list[tuple] = ()):
    truth = list(truth) or [("v", 902, BOX, 1, 1.0), ("v", 903, BOX, 2, 1.0)]
    return rows(*zip(*truth, strict=True)), rows(*zip(*found, strict=True))


def test_false_alarms_where_nobody_acts_count_in_two_variants_and_where_listed_in_a_third():
    found = [("v", 902, BOX, 1, 0.5), ("v", 903, BOX, 2, 0.5), ("v", 904, BOX, 1, 0.9)]
    means = {name: frame_map(*small(found), variant=name).mean for name in VARIANTS}
    assert means == {
        "activitynet-head": 1.0,
        "activitynet-2019": 0.75,
        "slowfast": 0.75,
        "mmaction2": 1.0,
    }
    listed = [("v", 902, BOX, 1, 1.0), ("v", 903, BOX, 2, 1.0), ("v", 904, BOX, 0, 1.0)]
    again = {name: frame_map(*small(found, listed), variant=name).mean for name in VARIANTS}
    assert again == means | {"activitynet-head": 0.75}
    kept = frame_map(*small(found), variant="mmaction2", ignore_empty_frames=False)
    assert kept.mean == 0.75 and "ignore_empty_frames=False" in kept.variant


def test_a_keyframe_whose_only_actions_are_not_evaluated_is_listed():
    truth = [("v", 902, BOX, 1, 1.0), ("v", 904, BOX, 7, 1.0)]
    found = [("v", 902, BOX, 1, 0.5), ("v", 904, BOX, 1, 0.9)]
    assert frame_map(*small(found, truth), classes=[1]).mean == 0.5
    assert frame_map(*small(found, truth), classes=[1], variant="mmaction2").mean == 1.0


def test_only_activitynet_head_tells_fractions_of_a_second_apart():
    truth = [("v", 902.25, BOX, 1, 1.0), ("v", 902.75, BOX, 1, 1.0)]
    found = [("v", 902.25, BOX, 1, 0.5), ("v", 902.75, BOX, 1, 0.4), ("v", 902.5, BOX, 1, 0.9)]
    result = frame_map(*small(found, truth))
    assert result.mean == 1.0 and result.counts["in keyframes that do not count"] == 1
    for name in VARIANTS:
        if name != "activitynet-head":
            with pytest.raises(DataError, match="902.25 is not a whole second"):
                frame_map(*small(found, truth), variant=name)


def test_the_cap_counts_boxes_times_classes():
    noise = [("v", 902, [0.6, 0.1, 0.9, 0.9], 2, 0.5 + i / 1000) for i in range(50)]
    found = [*noise, ("v", 902, BOX, 1, 0.4)]
    ap = {name: frame_map(*small(found), variant=name).per_class[1] for name in VARIANTS}
    assert ap == {
        "activitynet-head": 0.0,
        "activitynet-2019": 0.0,
        "slowfast": 1.0,
        "mmaction2": 1.0,
    }
    assert frame_map(*small(found)).counts["over the cap"] == 1


def test_slowfast_claims_in_file_order():
    found = [("v", 902, BOX, 1, 0.3), ("v", 902, BOX, 1, 0.9)]
    assert frame_map(*small(found), classes=[1], variant="slowfast").mean == 0.5
    assert frame_map(*small(found), classes=[1], variant="activitynet-2019").mean == 1.0


def test_mmaction2_forgets_a_class_without_detections_and_counts_excluded_boxes():
    found = [("v", 902, BOX, 1, 0.5)]
    assert frame_map(*small(found), variant="slowfast").mean == 0.5
    result = frame_map(*small(found), variant="mmaction2")
    assert result.mean == 1.0 and math.isnan(result.per_class[2])
    truth = [("v", 902, BOX, 1, 1.0), ("v", 903, BOX, 1, 1.0)]
    for name, ap in (("slowfast", 1.0), ("activitynet-2019", 1.0), ("mmaction2", 0.5)):
        result = frame_map(*small(found, truth), variant=name, excluded=[("v", 903)])
        assert result.mean == ap, name


def test_detections_without_an_area_are_dropped_or_refused():
    found = [("v", 902, [0.5, 0.1, 0.1, 0.9], 1, 0.9), ("v", 902, BOX, 1, 0.5)]
    assert frame_map(*small(found), classes=[1]).counts["without an area"] == 1
    with pytest.raises(DataError, match=r"\[0.5, 0.1, 0.1, 0.9\] of v at 902 s is inside out"):
        frame_map(*small(found), variant="mmaction2")


def test_no_detections_score_nothing():
    truth, _ = small([("v", 902, BOX, 1, 1.0)])
    for name in ("activitynet-head", "activitynet-2019", "slowfast"):
        assert frame_map(truth, truth[:0], variant=name).mean == 0.0
    assert math.isnan(frame_map(truth, truth[:0], variant="mmaction2").mean)


def test_files_without_a_common_keyframe_have_no_figure(tmp_path, capsys):
    """Another time base, or other names: 0 would look like a bad model."""
    truth = [("v", 902, BOX, 1, 1.0), ("v", 903, BOX, 2, 1.0)]
    for strange in ([("v", 2, BOX, 1, 0.9)], [("v.mp4", 902, BOX, 1, 0.9)]):
        for name in VARIANTS:
            result = frame_map(*small(strange, truth), variant=name)
            assert math.isnan(result.mean) and all(map(math.isnan, result.per_class.values()))
            assert f"{strange[0][0]} at {strange[0][1]} s" in result.note
            assert "v at 902 s" in result.note
    one = frame_map(*small([("v", 903, BOX, 1, 0.9)], truth))  # wrong, but of these videos
    assert one.mean == 0.0 and not one.note
    paths = [write(tmp_path / f"{i}.csv", part) for i, part in enumerate(small(strange, truth))]
    assert main([*map(str, paths), "--per-class"]) == 0
    out = capsys.readouterr().out
    assert out.count("n/a") == 4 and "n/a: no detection lies in a keyframe" in out


def test_what_makes_no_sense_is_refused():
    truth, found = small([("v", 902, BOX, 1, 1.0)])
    with pytest.raises(DataError, match="unknown variant 'slowfst', did you mean slowfast"):
        frame_map(truth, found, variant="slowfst")
    with pytest.raises(DataError, match="only mmaction2"):
        frame_map(truth, found, variant="slowfast", ignore_empty_frames=False)
    with pytest.raises(DataError, match="takes no excluded timestamps"):
        frame_map(truth, found, excluded=[("v", 902)])
    with pytest.raises(DataError, match="no row of the ground truth"):
        frame_map(truth, found, classes=[5])
    bent = truth.copy()
    bent["box"][1] = [0.9, 0, 0.1, 1]
    with pytest.raises(DataError, match=r"\[0.9, 0.0, 0.1, 1.0\] of v at 903 s"):
        frame_map(bent, found)


# -- files ----------------------------------------------------------------------------------------


def test_a_csv_reads_back_as_written(tmp_path):
    truth, found, excluded = case(1)
    assert (truth["label"] == 0).any() and len(excluded) == 3
    again = read_csv(write(tmp_path / "t.csv", truth), truth=True, classes=CLASSES)
    for field in ("video", "time", "label", "score"):
        assert (again[field] == truth[field]).all()
    np.testing.assert_array_equal(again["box"], truth["box"])
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write((tmp_path / "t.csv").read_bytes())
    assert len(read_csv(tmp_path / "t.csv.gz", truth=True)) == len(truth)
    with pytest.warns(UserWarning, match="lie outside|unknown class"):
        read_csv(write(tmp_path / "d.csv", found), classes=CLASSES | {14: "last"})
    path = tmp_path / "e.csv"
    path.write_text("aaa,0902\n\nbbb,1000.5\n")
    assert read_excluded(path) == [("aaa", 902.0), ("bbb", 1000.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("v,902,0.1,0.1,0.5,0.9\n", "line 1 has 6 columns, not 7 or 8.*from action on"),
        ("v,902,0.1,0.1,0.5,0.9,1\nv,902,0.1,0.1,0.5,1.9,1\n", "line 2: box .*1.9 lies outside"),
        ("v,902,0.1,0.1,0.5,-0.2,1\n", "line 1: box .*-0.2 lies outside"),
        ("v,902,0.5,0.1,0.1,0.9,1\n", "line 1: box 0.5, 0.1, 0.1, 0.9 is inside out"),
        ("v,902,0.1,0.1,0.5,0.9,1\nv,902,0.1,x,0.5,0.9,1\n", "line 2: y1 'x' is not a number"),
        ("v,902,0.1,nan,0.5,0.9,1\n", "line 1: y1 'nan' is not a number"),
        ("video,timestamp,x1,y1,x2,y2,action\n", "'timestamp' is not a number.*no header"),
        ("v,902,0.1,0.1,0.5,0.9,walk\n", "action 'walk' is not a class number"),
        ("v,902,0.1,0.1,0.5,0.9,0\n", "unknown class 0: .*from 1"),
        ("v,902,0.1,0.1,0.5,0.9,81\n", "line 1: unknown class 81: .*1 to 12"),
    ],
)
def test_wrong_ground_truth_is_one_clear_line(tmp_path, text, words):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        read_csv(path, truth=True, classes=range(1, 13))
    assert "\n" not in str(error.value) and "truth.csv" in str(error.value)


def test_detections_are_read_with_the_originals_patience_but_not_silently(tmp_path):
    path = tmp_path / "found.csv"
    path.write_text("v,902,0.1,0.1,0.5,0.9,99,0.5\nv,902,-0.1,0.1,0.5,0.9,1\n")
    with pytest.warns(UserWarning) as notes:
        found = read_csv(path, classes=[1, 2])
    told = " ".join(str(n.message) for n in notes)
    for words in ("1 of 2 rows have no score", "outside [0, 1]", "unknown class"):
        assert words in told
    assert found["score"].tolist() == [0.5, 1.0] and found["box"][1, 0] == -0.1
    with pytest.raises(DataError, match="line 2 has no score"):
        read_csv(path, need_score=True)
    with pytest.raises(DataError, match="is not at .*give the path"):
        read_csv(tmp_path / "absent.csv")


def test_label_maps_of_both_dialects(tmp_path):
    path = tmp_path / "map.pbtxt"
    path.write_text('item {\n  name: "sit {down}"\n  id: 11\n}\nitem { id: 3 name: "run" }\n')
    assert read_labels(path) == {11: "sit {down}", 3: "run"}
    path.write_text('label {\n  name: "run"\n  label_id: 3\n  label_type: PERSON_MOVEMENT\n}\n')
    assert read_labels(path) == {3: "run"}
    for text, words in (
        ("", "holds no label"),
        ('\nitem { name: "run" }', "line 2: this entry needs"),
        ('item { name: "a" id: 1 }\nitem { name: "b" id: 1 }', "line 2: class id 1 .* once"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_labels(path)
    path.write_text("a,902,3\n")
    with pytest.raises(DataError, match="line 1 has 3 columns, not 2"):
        read_excluded(path)


@pytest.mark.skipif(not AVA.exists(), reason="AVA's annotations are not beside this checkout")
def test_avas_own_files():
    names = read_labels(AVA / "ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    assert len(names) == 60 and names[80] == "watch (a person)"
    assert len(read_labels(AVA / "ava_action_list_v2.2.pbtxt")) == 80
    truth = read_csv(AVA / "ava_test_v1.0.csv.gz", truth=True, classes=names)
    assert len(truth) == 41425
    for name in VARIANTS:  # the annotations as detections are perfect
        result = frame_map(truth, truth, variant=name, classes=names)
        assert result.mean == 1.0 and result.counts["of other classes"] > 0
        assert result.counts["classes scored"] == 59


# -- command line ---------------------------------------------------------------------------------


def files(tmp_path, seed=10):
    truth, found, excluded = case(seed)
    labels = "".join(f'item {{ name: "{n}" id: {c} }}\n' for c, n in CLASSES.items())
    (tmp_path / "map.pbtxt").write_text(labels)
    (tmp_path / "out.csv").write_text("".join(f'"{v}",{t:g}\n' for v, t in excluded))
    paths = write(tmp_path / "truth.csv", truth), write(tmp_path / "found.csv", found)
    return [*map(str, paths), "--labels", str(tmp_path / "map.pbtxt")], truth, found, excluded


def test_command_line_table(tmp_path, capsys):
    arguments, truth, found, excluded = files(tmp_path)
    arguments += ["--excluded", str(tmp_path / "out.csv"), "--all-variants", "--per-class"]
    assert main([*arguments, "--lookahead", "1.07"]) == 0
    out, err = capsys.readouterr()
    assert "look-ahead 1.07 s" in out and "action 14" in out
    assert "activitynet-head takes no excluded timestamps" in err and "outside [0, 1]" in err
    for name in VARIANTS:
        leave = [] if name == "activitynet-head" else excluded
        mean = frame_map(truth, found, variant=name, classes=CLASSES, excluded=leave).mean
        line = next(x for x in out.splitlines() if x.startswith(name + " "))
        assert f" {mean:.4f} " in line
    assert "mmaction2 (ignore_empty_frames=False)" in out
    assert main([*arguments[:4], "--variant", "slowfast"]) == 0
    out = capsys.readouterr().out
    assert "look-ahead not stated" in out and "slowfast" in out and "mmaction2" not in out


def test_a_variant_that_refuses_does_not_stop_the_others(tmp_path, capsys):
    arguments, *_ = files(tmp_path, seed=5)  # boxes inside out
    assert main([*arguments, "--all-variants"]) == 0
    out = capsys.readouterr().out
    assert "mmaction2 refused: " in out and "slowfast   " in out
    assert main([*arguments, "--variant", "mmaction2"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("streamzoo.train.metrics: ") and err.count("\n") == 1


def test_command_line_errors_are_one_line(tmp_path, capsys):
    arguments, *_ = files(tmp_path)
    for wrong in (
        ["absent.csv", arguments[1]],
        [*arguments, "--variant", "mmaction"],
        [*arguments, "--excluded", str(tmp_path / "out.csv")],
        [*arguments, "--keep-empty-frames"],
    ):
        assert main(wrong) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "example:" in capsys.readouterr().out
