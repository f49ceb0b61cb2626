"""Relations of objects: what holds, what is over, and that trembling boxes tell no story."""

from types import SimpleNamespace

import numpy as np
import pytest

from streamzoo.streaming.chat import Narrator
from streamzoo.streaming.chat.scene_graph import SceneGraph, Triplet, relation

MAN, CAR, BAG = (0.1, 0.4, 0.2, 0.8), (0.22, 0.45, 0.5, 0.8), (0.12, 0.55, 0.16, 0.62)


@pytest.mark.parametrize(
    "a, b, word",
    [
        (MAN, CAR, "beside"),
        (CAR, MAN, ""),  # once for both
        (MAN, BAG, "holds"),
        ((0.2, 0.2, 0.4, 0.5), (0.1, 0.45, 0.5, 0.9), "on"),
        ((0.1, 0.1, 0.4, 0.4), (0.3, 0.2, 0.6, 0.5), "overlaps"),
        ((0.1, 0.4, 0.2, 0.8), (0.7, 0.4, 0.8, 0.8), ""),
        ((0.1, 0.0, 0.2, 0.2), (0.22, 0.7, 0.5, 0.9), ""),
    ],
)
def test_what_a_box_is_to_another(a, b, word):
    assert relation(a, b) == word


def test_a_relation_holds_when_it_lasted_and_is_over_when_it_did_not():
    graph_of = SceneGraph(steady=1.0, patience=1.0)
    graph, changes = graph_of.begin(), []
    for i in range(80):
        time = i / 10
        there = {1: ("person", MAN), 2: ("car", CAR)}
        if 3.0 <= time < 3.5 or i % 2 and time < 5:  # gone for moments
            del there[2]
        if time >= 5:
            there[2] = ("car", (0.7, 0.45, 0.95, 0.8))  # drove away
        graph, new = graph_of(graph, there, time)
        changes += new
        if time == 4.0:
            assert graph.triplets() == [Triplet(1, "beside", 2)]
    assert [(c.triplet, c.begins, c.time) for c in changes] == [
        (Triplet(1, "beside", 2), True, 1.0),
        (Triplet(1, "beside", 2), False, 5.9),
    ]
    assert graph.triplets() == [] and set(graph.labels) == {1, 2}
    assert graph_of.words(graph, changes[0]) == "person 1 is beside car 2"
    assert graph_of.words(graph, changes[1]) == "person 1 is no longer beside car 2"


def test_a_graph_stays_small_however_many_come():
    graph_of, rng = SceneGraph(most=5), np.random.default_rng(0)
    graph, sizes = graph_of.begin(), []
    for i in range(400):
        corner = rng.random((9, 2)) * 0.7
        there = {10 * i + k: ("person", (*c, *(c + 0.2))) for k, c in enumerate(corner)}
        graph, _ = graph_of(graph, there, i / 10)
        sizes.append((len(graph.labels), len(graph.edges)))
    late = np.asarray(sizes[20:])
    assert late[:, 0].max() <= 5 * 12 and late[:, 1].max() <= 20 * 12
    with pytest.raises(ValueError, match="two objects or more"):
        SceneGraph(most=1)


def test_relations_are_told_with_the_other_events():
    def result(time, *objects):
        found = [dict(id=n, label=label, box=list(box), score=0.9) for n, label, box in objects]
        return SimpleNamespace(
            time=time, objects=lambda: found, persons=list, scores=lambda: None, classes=()
        )

    for graph, told in ((SceneGraph(), ["Person 1 is beside car 2"]), (None, [])):
        narrator = Narrator(relations=graph)
        for i in range(30):
            narrator.push(result(i / 10, (1, "person", MAN), (2, "car", CAR)))
        events = narrator.round(3.0).events
        assert [e for e in events if "beside" in e] == told
