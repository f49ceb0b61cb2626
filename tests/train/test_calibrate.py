"""``streamzoo calibrate``: what it reports is what the written model does on the same files."""

import dataclasses
import functools
import re

import av
import jax
import numpy as np
import pytest
from PIL import Image

from streamzoo import zoo
from streamzoo.streaming.cli import main
from streamzoo.train import recipe as recipes
from streamzoo.train.calibrate import parser, undecided, write
from streamzoo.train.data import video
from streamzoo.train.data.base import DataError
from streamzoo.train.data.ucf11 import CLASSES
from streamzoo.train.seen import LEARNED, OTHER, Seen, kept, split
from streamzoo.train.seen_videos import of_others, read_shown
from streamzoo.zoo.action.decision import Decision
from streamzoo.zoo.files import sha256

from . import test_ucf11_source

NAMES = tuple(CLASSES.values())
FIELDS = dict(
    image_size=(32, 48), num_classes=len(NAMES), depth=1, dim=16, dtype="float32",
    heads=("roi", "person"), max_boxes=2, person_threshold=0.4, frame_box=True,
)  # fmt: skip
CARD = dataclasses.replace(zoo.model_card("tsa-mi16"), classes=NAMES, multi_label=False)
SPLIT = re.compile(r"^(fitted to|held back): (clips of its actions|clips of no action|others)")


def film(path, rng, frames=12):
    """Noise of a hue of its own, which changes half way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for hue in np.repeat(rng.integers(0, 256, (2, 3)), frames // 2, axis=0):
            image = np.clip(hue + rng.normal(0, 40, (32, 48, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A student with random weights, clips of two classes, and others."""
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    _, variables = zoo.init_params("tsa-mi16", seed=3, **FIELDS)
    variables = jax.tree.map(lambda a: 8 * a if a.ndim > 1 else a, variables)  # it has opinions
    zoo.save(home / "own.safetensors", variables, recipes.header("tsa-mi16", FIELDS, CARD))
    for name in ("golf_swing", "walking"):
        for number in range(4):
            film(home / "clips" / name / f"{number}.avi", rng)
    for number in range(5):
        film(home / "others" / "deep" / f"{number}.avi", rng)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(home / "others" / "s.png")
    (home / "others" / "broken.mp4").write_bytes(b"no video")
    names = [f"test/{c}/v_{w}_{g:02}_01" for w, c in (("golf", "golf_swing"), ("biking", "biking"))
             for g in range(4)]  # fmt: skip
    test_ucf11_source.archive(home / "ucf11.zip", names)
    return home


def words(home, out, *more):
    given = [
        "calibrate",
        home / "own.safetensors",
        "--others",
        home / "others",
        "--out",
        out,
        *more,
    ]
    if "--config" not in more and "--in-domain" not in more:
        given += ["--in-domain", home / "clips"]
    return [str(word) for word in given]


def table(text):
    """Row name -> (videos, minutes, coverage, risk, alarms, alarms per minute)."""
    rows = {}
    for line in text.splitlines():
        if found := SPLIT.match(line):
            rows[found[0]] = [float(w) if w != "n/a" else None for w in line[found.end() :].split()]
    return rows


@functools.cache
def step(path):
    model, params, card = zoo.resolve(path)
    return model, jax.jit(lambda carry, x: model.apply(params, carry, zoo.preprocess(x, card)))


def said(path, frames):
    """What the written model knows of a video, frame by frame."""
    model, run = step(path)
    carry, answers = model.init_carry(1, (32, 48)), []
    for frame in frames:
        carry, out = run(carry, frame[None, None])
        answers.append(np.asarray(out.known[0, 0]))
    return np.stack(answers)


@pytest.mark.slow
def test_the_report_is_what_the_written_model_does(home, tmp_path, capsys):
    out, seen = tmp_path / "known.safetensors", tmp_path / "seen.npz"
    loud = ["--alarms", "40", "--risk", "1", "--nothing", "walking"]
    assert main(words(home, out, *loud, "--keep", seen, "--plot", tmp_path / "known.png")) == 0
    text, told = capsys.readouterr()
    assert "broken.mp4" in told and Image.open(tmp_path / "known.png").size > (300, 300)
    rule = zoo.resolve(out).model.config.decision
    assert rule.nothing == (NAMES.index("walking"),) and rule.on <= 1
    alarms = dict.fromkeys(table(text), 0)
    videos, covered = dict(alarms), dict(alarms)
    for one in kept(seen, zoo.resolve(home / "own.safetensors").params):
        file = home / one.name
        still = file.suffix == ".png"
        if still:
            picture = Image.open(file).resize((48, 32), Image.Resampling.BILINEAR)
            frames = np.repeat(np.asarray(picture)[None], 4, axis=0)
        else:
            frames = video.decode(file, (32, 48))
        assert one.frame_rate == (1 if still else 10) and len(one.logits) == len(frames)
        kind = "others"
        if one.kind == LEARNED:
            kind = "clips of no action" if "walking" in one.name else "clips of its actions"
        row = f"{'held back' if one.held_back else 'fitted to'}: {kind}"
        known, right = said(out, frames), [NAMES.index("golf swing")] * (kind[-7:] == "actions")
        videos[row] += 1
        covered[row] += bool(known.any())
        known[:, right] = False
        alarms[row] += int((known & ~np.pad(known, ((1, 0), (0, 0)))[:-1]).sum())
    assert set(alarms) == set(table(text)) and sum(alarms.values()) and len(alarms) == 6
    for row, (count, minutes, coverage, _, false, rate) in table(text).items():
        assert (count, false) == (videos[row], alarms[row]), row
        assert rate == pytest.approx(false / minutes, rel=0.4), row  # minutes have two digits
        if row.endswith("its actions"):
            assert coverage == pytest.approx(covered[row] / count)
    # nothing but the decision is new
    before, after = (zoo.card_of(p) for p in (home / "own.safetensors", out))
    assert after.classes == NAMES and Decision(**after.overrides["decision"]).on == rule.on
    assert dataclasses.replace(after, overrides=before.overrides) == before
    params = [zoo.resolve(path).params for path in (home / "own.safetensors", out)]
    for a, b in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_array_equal(a, b)
    # the same from what was kept, also of the weights that decide already; not of other weights
    again = ["--features", str(seen), "--out", str(tmp_path / "again.safetensors")]
    assert main(["calibrate", str(out), *again, *loud]) == 0
    assert zoo.resolve(tmp_path / "again.safetensors").model.config.decision == rule
    assert capsys.readouterr().out.startswith(text.partition("wrote")[0])
    assert main(["calibrate", "dsta-lite0/ut", *again, "--overwrite"]) == 2
    assert "seen by other weights" in capsys.readouterr().err


def test_the_clips_of_a_config(home, tmp_path, capsys):
    config = ["--config", "ucf11_student", "--set", f"test.path={home / 'ucf11.zip'}"]
    argv = words(home, tmp_path / "x.safetensors", *config, "--jpeg", "24,32", "--alarms", "0")
    assert main(argv) == 0
    rows = table(capsys.readouterr().out)
    assert rows["fitted to: clips of its actions"][:2] == [4, 0.33]  # 4 of 5 s
    assert rows["fitted to: others"][0] + rows["held back: others"][0] == 12  # each of 6 twice
    assert rows["fitted to: others"][4] == 0


def test_the_card_of_a_name_lies_beside_its_weights(tmp_path):
    name = "rglru-palm/egogestar"
    assert not undecided(name).model.config.decision
    out = tmp_path / "out.safetensors"
    written = write(out, name, Decision(temperature=2.0, hold=3))
    card, old = zoo.Card.from_json(written[1].read_text()), zoo.card_of(name)
    assert written == [out, tmp_path / "out.json"] and card.classes == old.classes
    assert card.sha256 == sha256(out) and card.carry_bytes > old.carry_bytes
    assert zoo.resolve(out).model.config.decision == Decision(temperature=2.0, hold=3)


def test_what_is_of_one_clip_is_on_one_side():
    empty = np.zeros((0, 2))
    video = lambda name, truth, kind: Seen(name, frozenset(truth), kind, False, 1.0, *[empty] * 3)
    made = [video(f"{c}_{clip}_{part}", {c}, LEARNED)
            for c in range(2) for clip in range(6) for part in range(3)]  # fmt: skip
    made += [video(f"o_{clip}_0", (), OTHER) for clip in range(10)]
    clip = lambda name: name.rpartition("_")[0]
    found = split(made, 1 / 3, clip)
    back = {clip(one.name) for one in found if one.held_back}
    assert back.isdisjoint(clip(one.name) for one in found if not one.held_back)
    assert sorted(name[0] for name in back) == ["0"] * 2 + ["1"] * 2 + ["o"] * 3
    assert [one.name for one in found] == [one.name for one in made]
    assert {clip(one.name) for one in split(made[::-1], 1 / 3, clip) if one.held_back} == back


def test_what_others_show_after_all(home, tmp_path):
    (tmp_path / "shown.csv").write_text("1.avi,walking\n1.avi,biking\n")
    shown = read_shown(tmp_path / "shown.csv", NAMES)
    assert shown == {"1.avi": {NAMES.index("walking"), NAMES.index("biking")}}
    card = dataclasses.replace(CARD, input_size=(32, 48))
    found = {one.name: one for one in of_others(home / "others", card, 5, shown, None)}
    assert found["others/deep/1.avi"].truth == shown["1.avi"]
    assert [one.kind for one in found.values() if one.truth] == [-1]
    assert found["others/deep/2.avi"].open()[0].shape == (5, 32, 48, 3)  # 5 frames at most
    (tmp_path / "shown.csv").write_text("1.avi,walking\n2.avi,flying\n")
    with pytest.raises(DataError, match="line 2: .* one of basketball"):
        read_shown(tmp_path / "shown.csv", NAMES)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--in-domain", "HOME/none"], "not at HOME/none: check the path of --in-domain"),
        (["--in-domain", "HOME"], "clips: no class of tsa-mi16, which has basketball"),
        (["--in-domain", "EMPTY"], "EMPTY: no folder of a class in it"),
        (["--others", "HOME/none"], "not at HOME/none: check the path of --others"),
        (["--others", "EMPTY"], "EMPTY: no videos or pictures in it"),
        (["--others", "HOME/clips/walking", "--held-back", "0"], "to measure on: too few"),
        (["--config", "smoke"], "its test data have no labels of clips"),
        (["--config", "smokey"], "did you mean smoke"),
        (["--nothing", "flying"], "--nothing flying: no class of tsa-mi16"),
        (["--features", "HOME/none.npz"], "leave out the one or the others"),
        (["--out", "EMPTY/x.npz"], "ends in .safetensors"),
        (["--out", "HOME/own.safetensors"], "is there already; --overwrite replaces it"),
        (["--held-back", "2"], "--held-back 2.0: give a number from 0 to 1"),
        (["--alarms", "nan"], "--alarms nan"),
        (["--clip", "("], "no regular expression"),
        (["--jpeg", "12"], "give HEIGHT,WIDTH"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(home, tmp_path, capsys, more, text):
    known = {"HOME": str(home), "EMPTY": str(tmp_path)}
    swap = lambda word: functools.reduce(lambda w, kv: w.replace(*kv), known.items(), word)
    assert main(words(home, tmp_path / "x.safetensors", *map(swap, more))) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and swap(text) in error, error
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("yolox-nano/coco", "(detect) has no action head"),
        ("tsa-lite0/synth", "has no classes of the whole frame (heads "),
        ("nothing-at-all", "nothing-at-all"),
    ],
)
def test_a_model_that_cannot_decide(home, tmp_path, capsys, name, text):
    given = words(home, tmp_path / "x.safetensors")
    assert main([given[0], name, *given[2:]]) == 2
    assert text in capsys.readouterr().err


def test_help_has_examples_that_parse():
    text = parser().format_help().partition("examples:")[2]
    commands = re.findall(r"streamzoo calibrate ([^\n\\]*(?:\\\n[^\n]*)*)", text)
    assert len(commands) == 3
    for one in commands:
        assert parser().parse_args(one.replace("\\\n", " ").split()).out.suffix == ".safetensors"
