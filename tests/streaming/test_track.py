"""Tracking a live stream: prompts by name, in the source's pixels, and what the files say."""

import copy
import gc
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace as Frame
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import create_model, init_params, save
from streamzoo.streaming.cli import main
from streamzoo.streaming.step import Step
from streamzoo.streaming.track import (
    Prompt,
    TrackSession,
    read_prompts,
)
from streamzoo.streaming.views.track import TrackView, box_of, run_lengths
from streamzoo.zoo import card_of
from streamzoo.zoo.segment.decoder import DecoderConfig
from streamzoo.zoo.segment.hiera import HieraConfig
from streamzoo.zoo.segment.stream import no_prompts
from streamzoo.zoo.weights import shapes_of

from .rtsp import make_clip

NAME, SIZE, SOURCE = "sam2.1video-t", (64, 96), (32, 64)
TINY: dict[str, Any] = dict(
    image_size=SIZE, depth=1, hidden=32, memory_hidden=32, memories=3, max_pointers=3, objects=2,
    points=3, prompted_slots=2, memory_dtype="float32",
    decoder=DecoderConfig(dim=64, heads=2, depth=1, hidden=32, iou_hidden=16),
    trunk=HieraConfig(dims=(8, 16, 32, 64), heads=(1, 1, 2, 4), blocks=(1, 1, 1, 1),
                      windows=(8, 4, 2, 1), global_blocks=(2,)),
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tracker.safetensors"
    model, params = init_params(NAME, **TINY)
    save(path, params, {"model": NAME, "config": model.config})
    return path


@pytest.fixture(scope="module")
def step(weights):
    model, params = init_params(NAME, **TINY)
    return Step(model, params, card_of(NAME, **TINY))


def frames(count):
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)


@pytest.mark.slow  # a tracker is long to compile
def test_objects_by_name_are_the_models_slots(step):
    """Names, the source's pixels and times, against the module's own arrays."""
    film = frames(4)
    cat, dog = Prompt("cat", points=((16.0, 8.0), (60.0, 30.0)), labels=(1, 0)), "dog"
    session = TrackSession(step, SOURCE, [cat, Prompt(dog, box=(4, 2, 40, 20), at=2.0)])
    compiled = step.compiles
    found = [session.push(frame, float(t)) for t, frame in enumerate(film)]
    session.remove("cat")
    found.append(session.push(film[0], 4.0))
    assert step.compiles == compiled
    assert [sorted(f.masks) for f in found] == [["cat"]] * 2 + [["cat", "dog"]] * 2 + [["dog"]]
    assert all(m.shape == SOURCE and m.dtype == bool for f in found for m in f.masks.values())

    carry = step.init_carry(1, SIZE)
    for t, frame in enumerate([*film, film[0]]):
        prompts = no_prompts(1, 1, 2, 3, SIZE)
        if t == 0:
            prompts.points[0, 0, 0, :2] = [[24, 16], [90, 60]]
            prompts.labels[0, 0, 0, :2] = [1, 0]
            prompts.pointed[0, 0, 0] = True
        if t == 2:
            prompts.points[0, 0, 1, :2] = [[6, 4], [60, 40]]
            prompts.labels[0, 0, 1, :2] = [2, 3]
            prompts.pointed[0, 0, 1] = True
        prompts.remove[0, 0, 0] = t == 4
        carry, out = step(carry, frame[None, None], prompts=prompts)
        for slot, name in enumerate(("cat", "dog")):
            if name in found[t].masks:
                want = 1 / (1 + np.exp(-float(out.scores[0, 0, slot])))
                assert found[t].scores[name] == pytest.approx(want, abs=1e-6)


@pytest.mark.slow  # a tracker is long to compile
@pytest.mark.parametrize(
    "again", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_a_copy_made_in_mid_stream_goes_on_by_itself(step, again):
    """With its objects, a prompt that waits for the next frame and one that waits for its time."""
    film = frames(5)
    later = Prompt("dog", box=(4, 2, 40, 20), at=3.0)
    session = TrackSession(step, SOURCE, [Prompt("cat", points=((16.0, 8.0),)), later])
    for t in range(2):
        session.push(film[t], float(t))
    session.add(Prompt("cat", points=((20.0, 10.0),), labels=(0,)))
    second = again(session)
    assert second.unreached == (later,) and second.frames == 2
    want = [session.push(film[t], float(t)) for t in range(2, 5)]
    got = [second.push(film[t], float(t)) for t in range(2, 5)]
    for a, b in zip(got, want, strict=True):
        assert a.index == b.index and sorted(a.masks) == sorted(b.masks)
        jax.tree.map(np.testing.assert_array_equal, (a.masks, a.scores), (b.masks, b.scores))
    assert sorted(got[-1].masks) == ["cat", "dog"]
    second.remove("cat")
    assert sorted(second.push(film[0], 5.0).masks) == ["dog"]
    assert sorted(session.push(film[0], 5.0).masks) == ["cat", "dog"]


@pytest.mark.slow  # a tracker is long to compile
def test_what_cannot_be_meant_is_refused(step):
    session = TrackSession(step, SOURCE)
    add = lambda **what: session.add(Prompt("a", **what))
    for words, what in {
        "outside the image, which is 64 wide": dict(points=((65.0, 1.0),)),
        "is empty": dict(box=(9, 9, 9, 12)),
        "this tracker takes 3": dict(points=((1.0, 1.0),) * 2, box=(0, 0, 5, 5)),
        "the image is": dict(mask=np.ones((4, 4), bool)),
        "give a point": {},
        "not both": dict(points=((1.0, 1.0),), mask=np.ones(SOURCE, bool)),
        "2 labels for 1": dict(points=((1.0, 1.0),), labels=(1, 0)),
        "label 4": dict(points=((1.0, 1.0),), labels=(4,)),
    }.items():
        with pytest.raises(ValueError, match=words):
            add(**what)
    for name in "ab":
        session.add(Prompt(name, points=((1.0, 1.0),)))
    with pytest.raises(ValueError, match="one too many: this tracker has 2 slots"):
        session.add(Prompt("c", points=((1.0, 1.0),)))
    with pytest.raises(ValueError, match="unknown object 'z'; tracked objects: 'a', 'b'"):
        session.remove("z")
    with pytest.raises(ValueError, match="size cannot change"):
        session.push(np.zeros((32, 32, 3), np.uint8))
    student = Step(create_model("tsa-s16"), None, card_of("tsa-s16"))
    with pytest.raises(ValueError, match="tsa-s16 is no tracker"):
        TrackSession(student)


@pytest.mark.slow  # a tracker is long to compile
def test_a_prompt_on_nothing_is_reported(step):
    """With a head that sees no object anywhere; the stream goes on."""
    last = "['object_head']['dense2']['bias']"
    blind = jax.tree_util.tree_map_with_path(
        lambda path, a: a - 100.0 if jax.tree_util.keystr(path).endswith(last) else a, step.params
    )
    there, step.params = step.params, blind
    try:
        session = TrackSession(step, SOURCE, [Prompt("cat", points=((16.0, 8.0),))])
        first, second = (session.push(frame, 0.0) for frame in frames(2))
    finally:
        step.params = there
    assert first.absent == ("cat",) and not first.masks["cat"].any() and second.absent == ()
    line = TrackView().record(Frame(index=0, time=0.0), first, 0.0)
    assert line["objects"] == [{"name": "cat", "score": 0.0, "box": None, "absent": True}]


def resident():
    """Bytes of this process in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc/self/status")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text()).group(1)) * 1024


@pytest.mark.slow
def test_memory_of_a_long_track_is_flat():
    """5,000 frames with corrections and objects that come and go: from the 1,000th on nothing is
    allocated that stays. A frame has 3 kB, a mask and the carry 1 kB: to keep one would show."""
    small = TINY | dict(
        image_size=(32, 32), hidden=16, memory_hidden=16, memories=2, max_pointers=2, points=2,
        memory_dim=8, memory_depth=1, prompted_slots=1,
        decoder=DecoderConfig(dim=32, heads=2, depth=1, hidden=16, iou_hidden=16),
        trunk=HieraConfig(dims=(8, 16, 24, 32), heads=(1, 1, 1, 1), blocks=(1, 1, 1, 1),
                          windows=(2, 2, 2, 2), global_blocks=(2,), background=(2, 2)),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape) / 4, a.dtype)
    params = jax.tree.map(draw, shapes_of(NAME, **small))
    model = create_model(NAME, **small)
    session = TrackSession(Step(model, params, card_of(NAME, **small)))
    film = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    found = []
    for t in range(5000):
        if t % 500 == 0:
            session.add(Prompt("cat", points=((16.0 + t / 500, 8.0),)))
        if t % 1000 == 200:
            session.add(Prompt(t, box=(4, 2, 30, 20)))
        if t % 1000 == 900:
            session.remove(t - 700)
        session.push(film[t % 20], t / 30)
        if (t + 1) % 1000 == 0:
            gc.collect()
            live = sum(a.nbytes for a in jax.live_arrays())
            found.append((session.carry_bytes, live, resident()))
    carries, arrays, memory = zip(*found, strict=False)
    assert len(set(carries)) == 1 and len(set(arrays)) == 1, found
    assert memory[-1] - memory[0] < 4000 * 512, found


def test_prompts_as_typed():
    got = read_prompts(["3,4", "5,6,0", "car=1,2@1.5"], ["0,1,20,30", "dog=1,2,3,4"])
    assert got == [
        Prompt("1", points=((3, 4), (5, 6)), labels=(1, 0), box=(0, 1, 20, 30)),
        Prompt("car", points=((1, 2),), labels=(1,), at=1.5),
        Prompt("dog", box=(1, 2, 3, 4)),
    ]
    for bad in ("3", "a,b", "1,2,3,4", "1,2@-3", "1,2@x"):
        with pytest.raises(ValueError, match="write it as"):
            read_prompts([bad], [])


def test_run_lengths_give_the_mask_back():
    rng = np.random.default_rng(1)
    for mask in [rng.random((5, 7)) > p for p in (0, 0.3, 0.7, 1)]:
        runs = run_lengths(mask)
        back = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool).reshape(7, 5).T
        assert (back == mask).all()
    assert box_of(np.zeros((3, 3), bool)) is None
    mask = np.zeros((4, 8), bool)
    mask[1:3, 2:4] = True
    assert box_of(mask) == [0.25, 0.25, 0.5, 0.75]
    mask[0, 4] = True  # touches the rest at no side
    assert box_of(mask) == [0.25, 0.25, 0.5, 0.75]


@pytest.mark.slow  # a tracker is long to compile
def test_the_command_writes_masks(weights, tmp_path, capsys):
    clip = make_clip(tmp_path / "dog.mp4", frames=8)
    command = ["track", str(clip), "--model", str(weights), "--out", str(tmp_path / "out")]
    assert main([*command, "--point", "dog=20,10"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 frames") and "dog.mp4" in out
    lines = [json.loads(s) for s in (tmp_path / "out" / "dog.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(8))
    assert all([o["name"] for o in line["objects"]] == ["dog"] for line in lines)
    for words, more in {
        "nothing to track": [],
        "outside the image": ["--point", "5000,3"],
        "write it as": ["--box", "1,2,3"],
    }.items():
        assert main([*command, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["track", str(clip), "--model", "tsa-s16", "--point", "1,1"]) == 2
    assert "is no tracker" in capsys.readouterr().err
    assert main(["watch", str(clip), "--model", NAME]) == 2
    assert "streamzoo track" in capsys.readouterr().err


def test_prompts_that_no_frame_will_see_are_told(tmp_path, capsys, monkeypatch):
    """After the end, before the start, outside the picture; before anything is loaded."""
    clip = make_clip(tmp_path / "dog.mp4", frames=50)  # 2 s
    monkeypatch.setattr("streamzoo.zoo.load", lambda *_: pytest.fail("loaded"))
    command = ["track", str(clip), "--out", str(tmp_path / "out"), "--no-video"]
    for words, more in {
        "object dog: its prompt for second 99 would never": ["--point", "dog=20,10@99"],
        "the video is 2.0 s long": ["--point", "1,1", "--box", "dog=1,1,5,5@3.1"],
        "--seconds 1 stops before it": ["--point", "dog=20,10@1", "--seconds", "1"],
        "second -1 is not in the video": ["--point", "dog=20,10@-1"],
        "second nan is not in the video": ["--point", "dog=20,10@nan"],
        "(20, 1000) is outside the image": ["--point", "dog=20,1000@1"],
    }.items():
        assert main([*command, *more]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
    for at in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not in the stream"):
            Prompt("dog", points=((1, 1),), at=at)


@pytest.mark.slow  # a tracker is long to compile
def test_a_prompt_that_was_not_reached_is_a_warning(weights, tmp_path, capsys):
    clip = make_clip(tmp_path / "dog.mp4", frames=8)
    command = ["track", str(clip), "--model", str(weights), "--out", str(tmp_path / "out")]
    assert main([*command, "--no-video", "--point", "1,1", "--point", "dog=20,10@0.31"]) == 0
    err = capsys.readouterr().err
    assert "warning: prompts that were not reached" in err and "dog at second 0.31" in err
    assert "the last frame was at second 0.28" in err
