"""From pictures to words: a connector that learns through a language model that stays as it is."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train.connector import __main__ as command
from streamzoo.train.connector.learn import LearnConfig, Learner, captions, targets
from streamzoo.train.connector.measure import commonest, probe, rates
from streamzoo.train.connector.pictures import counted, fights, how_many, stills
from streamzoo.zoo.videolm.describer import Describer, Frame

from ..zoo.language import bytewise, tiny

TEMPLATE = (
    "{% for m in messages %}<end>{{ m.role[0] }}:{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)
TEXTS = ("red", "blue", "an owl")
QUICK = LearnConfig(word_steps=60, steps=12, word_batch=12, batch=6, word_rate=1e-2, rate=1e-2)


@pytest.fixture(scope="module")
def parts():
    """(features, said, language model, its parameters, tokenizer) of three kinds of pictures."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 24)
    centre = rng.standard_normal((3, 2, 2, 16))
    features = centre[kinds] + 0.05 * rng.standard_normal((24, 2, 2, 16))
    tokenizer = bytewise(TEMPLATE)
    model, params = tiny(policy="full", context=96, end=256)
    said = captions(tokenizer, [TEXTS[k] for k in kinds], model.config.end)
    return features.astype(np.float32), said, model, params, tokenizer


@pytest.mark.slow
def test_a_connector_learns_what_the_language_model_says(parts, tmp_path):
    features, said, model, params, tokenizer = parts
    given = (features, said, model, params, tokenizer)
    before = jax.tree.map(np.array, params)
    logs = []
    learner = Learner(*given, QUICK, tmp_path, logs.append)
    first = learner.words()
    batch = jnp.asarray(given[0][:12]), jnp.asarray(said[:12])
    start = float(learner.loss(first, params, *batch))
    learned = learner.sentences(first)
    assert float(learner.loss(learned, params, *batch)) < start - 0.3, logs
    jax.tree.map(np.testing.assert_array_equal, params, before)  # it learned nothing
    # what stands in the memory of a run that was stopped goes on to the last bit
    short = dataclasses.replace(QUICK, steps=12)
    halved = Learner(*given, short, tmp_path / "b", logs.append)
    (tmp_path / "b").mkdir()
    begin = halved.words()
    jax.tree.map(np.testing.assert_array_equal, begin, first)
    state = np.load(tmp_path / "state-seed0.npz")
    assert int(state["step"]) == 12
    halved.config = dataclasses.replace(QUICK, steps=10)
    halved._rate = learner._rate  # the same schedule, stopped at ten of twelve
    halved.sentences(begin)
    halved.config = QUICK
    jax.tree.map(np.testing.assert_array_equal, halved.sentences(begin), learned)
    # a describer says greedily what the loss was of, picture by picture
    describe = Describer(learner.net, learned, model, params, tokenizer, limit=3)
    words = np.asarray(describe._say(learned, params, jnp.asarray(given[0][:3])))
    seen = learner.net.apply(learned, jnp.asarray(given[0][:3]))
    for at in range(3):
        x = describe.frame.embedded(model, params, seen, jnp.asarray(words[:, :at]))
        _, y = model.apply(params, model.init_carry(3), None, features=x, method="read")
        logits = model.apply(params, y[:, -1], method="say")
        np.testing.assert_array_equal(words[:, at], np.asarray(logits.argmax(-1)))


@pytest.mark.slow
def test_the_end_of_a_caption_counts_once(parts):
    features, said, model, params, tokenizer = parts
    learner = Learner(features, said, model, params, tokenizer, QUICK, None)
    net = learner.net.init(jax.random.key(0), jnp.asarray(features[:1]))
    one = lambda rows: float(learner.loss(net, params, jnp.asarray(features[:4]), rows))
    end = model.config.end
    short = jnp.asarray([[114, end]] * 4)
    longer = jnp.asarray([[114, end, end, end]] * 4)
    assert one(short) == pytest.approx(one(longer), rel=1e-4)
    assert one(short) != pytest.approx(one(jnp.asarray([[98, end]] * 4)), rel=1e-3)


def test_captions_and_the_words_that_tell_them_apart(parts):
    tokenizer = parts[-1]
    said = captions(tokenizer, ["ab", "ac", "abc"], 256)
    assert said.shape == (3, 4) and said[0, 2:].tolist() == [256, 256]
    a, b, c = (tokenizer.words(x)[0] for x in "abc")
    assert targets(said, 1).tolist() == [[b], [c], [b]]
    assert set(targets(said, 2)[2].tolist()) == {b, c} and a not in targets(said, 2)[2]
    assert counted(0) == "There is nobody in the picture."
    assert counted(3) == "There are three people in the picture." and how_many(9) == "many"
    frame = Frame(tokenizer)
    assert tokenizer.text(frame.behind, special=True).endswith("picture?<end>a:")


def test_shares_are_counted_beside_the_commonest_and_a_probe():
    common = commonest([("count", "one"), ("count", "one"), ("count", "two")])
    assert common == {"count": "one"}
    rows = [("count", "one", "one"), ("count", "two", "one"), ("count", "two", "two")]
    assert rates(rows, common)["count"] == {
        "pictures": 3, "right": pytest.approx(2 / 3), "commonest": pytest.approx(1 / 3)
    }  # fmt: skip
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((50, 8)) + 3, rng.standard_normal((50, 8)) - 3])
    y = ["a"] * 50 + ["b"] * 50
    assert probe(x[::2], y[::2], x[1::2], y[1::2]) == 1.0


@pytest.mark.slow
def test_frames_of_the_layouts_and_the_command(tmp_path, monkeypatch, parts, capsys):
    """Small folders in the published layout; the encoder and the language model are stand-ins."""
    from PIL import Image

    still = tmp_path / "persons_still"
    (still / "images").mkdir(parents=True)
    rows = ["video,frame,x1,y1,x2,y2,class,track", "a,0,,,,,,", "b,0,.1,.1,.2,.2,person,0",
            "b,0,.3,.1,.4,.2,person,1"]  # fmt: skip
    (still / "boxes_ava_style.csv").write_text("\n".join(rows) + "\n")
    for name in "ab":
        Image.new("RGB", (40, 30)).save(still / "images" / f"{name}.jpg")
    found = list(stills(still))
    assert [s.caption for s in found] == [counted(0), counted(2)]
    assert [s.held for s in found] == [True, False] and found[0].frame.shape == (224, 224, 3)
    fight = tmp_path / "surv_fight"
    (fight / "clips").mkdir(parents=True)
    (fight / "labels.csv").write_text("video,class,source,frames\nx,nofight,v1,1\ny,fight,v2,1\n")
    boxes = "video,frame,x1,y1,x2,y2,class,track,score\nx,10,0,0,1,1,nofight,0,0.9\n"
    (fight / "clips_ava_style.csv").write_text(boxes + "x,10,0,0,1,1,nofight,1,0.2\n")
    for name in "xy":
        Image.new("RGB", (40, 30)).save(fight / "clips" / f"{name}.jpg")
    assert [s.caption for s in fights(fight)] == [counted(1), "People are fighting."]

    features, _, model, params, tokenizer = parts
    texts = [TEXTS[i % 3] for i in range(24)]
    shown = [
        SimpleNamespace(
            frame=np.zeros((2, 2, 3)), caption=t, kind="count", answer=t, held=i % 4 == 0
        )
        for i, t in enumerate(texts)
    ]
    monkeypatch.setattr(command, "pictures", lambda _: shown)
    monkeypatch.setattr(command, "encoded", lambda _: features)
    monkeypatch.setattr(command, "installed", lambda _: tmp_path)
    monkeypatch.setattr(command, "load", lambda *_, **__: (model, params))
    monkeypatch.setattr(command.Tokenizer, "read", lambda _: tokenizer)
    out = tmp_path / "runs"
    words = ["--out", str(out), "--steps", "2", "--batch", "4"]
    monkeypatch.setattr(command, "LearnConfig", Short)
    assert command.main(words) == 0
    report = json.loads((out / "report-seed0.json").read_text())
    assert report["learned"] == 18 and set(report["sentences"]) == {"count"}
    assert (out / "connector-seed0.safetensors").is_file()
    assert len((out / "sentences-seed0.tsv").read_text().splitlines()) == 6
    assert command.main(words) == 0  # nothing is learned again
    assert "step" not in capsys.readouterr().out.splitlines()[-2]


class Short(LearnConfig):
    """Few steps, whatever is asked."""

    def __init__(self, **given):
        super().__init__(**{**given, "word_steps": 3})
