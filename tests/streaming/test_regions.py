"""Zones and lines: supervision's counts, and visits and crossings that a viewer would report."""

from pathlib import Path

import numpy as np
import pytest

from streamzoo.streaming.regions import Line, Regions, Zone, read_regions

DATA = Path(__file__).parents[1] / "parity" / "data" / "tracks.npz"
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
MIDDLE = Line("middle", (0.5, 0.0), (0.5, 1.0))


def stands(x, y=0.5, who=1, label="person"):
    return {"id": who, "label": label, "box": [x - 0.05, y - 0.3, x + 0.05, y]}


def play(regions, xs, step=0.1):
    events = []
    for t, x in enumerate(xs):
        events += regions.update(step * t, [] if x is None else [stands(x)])
    return events + regions.close()


def test_counts_are_those_of_supervision():
    """In each of 795 frames, for real tracks; its zones are of whole pixels, so nearly there."""
    data = np.load(DATA)
    want = data["vtest/regions"]
    height, width = data["vtest/size"][:2]
    regions = read_regions(
        ["z=100,120,300,100,380,260,150,300"],
        ["a=0,200,480,170", "b=200,0,260,360"],
        (height, width),
        margin=0.0,
        linger=0.15,  # it forgets a side after two frames
    )
    zone, off = regions.zones[0], 0
    ids, boxes, frame = data["vtest/tuned"], data["vtest/boxes"] / 65535, data["vtest/frame"]
    for t in range(len(want)):
        seen = [
            {"id": int(ids[k]), "label": "person", "box": boxes[k].tolist()}
            for k in np.flatnonzero((frame == t) & (ids > 0))
        ]
        regions.update(t / 10, seen)
        lines = regions.counts()["lines"]
        assert [lines[n][w] for n in "ab" for w in ("in", "out")] == want[t, :4].tolist()
        feet = [((x0 + x1) / 2, y1) for x0, _, x1, y1 in (one["box"] for one in seen)]
        off += abs(sum(map(zone.holds, feet)) - int(want[t, 4]))
    assert want[-1, :4].min() > 10 and off < 0.01 * want[:, 4].sum()


def test_a_visit_has_a_start_and_an_end():
    regions = Regions([LEFT], settle=0.2, linger=0.5)
    events = play(regions, [0.9, 0.4, 0.3, 0.3, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert [(e.state, e.start, e.end) for e in events] == [
        ("start", pytest.approx(0.1), None),
        ("end", pytest.approx(0.1), pytest.approx(0.4)),
    ]
    assert regions.counts() == {"zones": {"left": {"inside": 0, "visits": 1}}}


def test_a_short_miss_does_not_end_a_visit_and_a_short_look_starts_none():
    once = play(Regions([LEFT], linger=0.5), [0.3, 0.3, None, None, 0.9, 0.3, 0.3])
    assert [e.state for e in once] == ["start", "end"]
    assert once[-1].end == pytest.approx(0.6)
    assert play(Regions([LEFT], settle=0.3), [0.9, 0.4, 0.9, 0.4, 0.4, 0.9, 0.9]) == []


def test_what_is_inside_when_the_stream_ends_gets_an_end():
    regions = Regions([LEFT])
    regions.update(3.0, [stands(0.2)])
    assert regions.counts()["zones"]["left"]["inside"] == 1
    (end,) = regions.close()
    assert end.to_dict() == {
        "kind": "zone", "state": "end", "region": "left", "id": 1, "label": "person",
        "start": 3.0, "end": 3.0,
    }  # fmt: skip
    assert regions.close() == []


def test_directions_across_a_line():
    """A line drawn from top to bottom: its "in" is to the right."""
    regions = Regions(lines=[MIDDLE])
    events = play(regions, [0.2, 0.4, 0.6, 0.8, 0.6, 0.4])
    assert [(e.direction, e.start) for e in events] == [
        ("in", pytest.approx(0.2)),
        ("out", pytest.approx(0.5)),
    ]
    assert regions.counts() == {"lines": {"middle": {"in": 1, "out": 1}}}
    across = Regions(lines=[Line("across", (0.0, 0.5), (1.0, 0.5))])
    for t, y in enumerate((0.9, 0.2)):
        across.update(t / 10, [stands(0.5, y)])
    assert across.crossings["across"] == {"in": 1, "out": 0}  # from left to right: upwards is in


def test_passing_beside_a_segment_is_no_crossing():
    regions = Regions(lines=[Line("short", (0.5, 0.8), (0.5, 1.0))])
    assert play(regions, [0.4, 0.6]) == [] and regions.crossings["short"] == {"in": 0, "out": 0}


def test_who_trembles_on_a_line_is_not_counted_over_and_over():
    trembling = [0.3] + [0.495, 0.505] * 10 + [0.7]
    calm, nervous = Regions(lines=[MIDDLE]), Regions(lines=[MIDDLE], margin=0.0)
    play(calm, trembling), play(nervous, trembling)
    assert calm.crossings["middle"] == {"in": 1, "out": 0}
    assert sum(nervous.crossings["middle"].values()) == 19  # not by chance


def test_labels_choose_and_objects_without_an_id_are_passed_over():
    regions = Regions([LEFT], labels=("car",))
    regions.update(0.0, [stands(0.2), stands(0.2, who=2, label="car"), stands(0.2, who=0)])
    assert regions.counts()["zones"]["left"] == {"inside": 1, "visits": 1}


def test_memory_does_not_grow_with_the_stream():
    regions = Regions([LEFT], [MIDDLE])
    for t in range(500):
        regions.update(t, [stands(0.2, who=t + 1)])
    assert len(regions._visits) <= 2 and len(regions._stood) <= 2


@pytest.mark.parametrize(
    "zones, lines, words",
    [
        (["1,2,3,4"], [], "--zone 1,2,3,4: write it as"),
        (["door=1,2,3,x,5,6"], [], "--zone door"),
        ([], ["1,2,3,4,5,6"], "--line 1,2,3,4,5,6"),
        ([], ["1,2,3,4000"], "outside the picture, which is 640 wide and 272 high"),
        ([], ["1,2,1,2"], "starts where it ends"),
        (["a=1,2,3,4,5,9"], ["a=1,2,3,4"], "two regions are called a"),
    ],
)
def test_what_cannot_be_is_refused(zones, lines, words):
    with pytest.raises(ValueError, match=words):
        read_regions(zones, lines, (272, 640))
    assert read_regions([], [], (272, 640)) is None
