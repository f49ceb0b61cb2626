"""Streaming speech from an offline teacher: the data, and that it learns."""

import dataclasses
import wave

import jax
import numpy as np
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.data.utterances import RATE, cut, decoded, recordings, taught
from streamzoo.train.hearing import Batches, HearingRecipe, Recordings, edits
from streamzoo.train.loop import LoopConfig, run
from streamzoo.train.optim import OptimConfig
from streamzoo.train.tasks.hear import HearConfig
from streamzoo.zoo.files import save
from streamzoo.zoo.speech.moonshine.model import Moonshine, MoonshineConfig, features_of

SMALL = MoonshineConfig(dim=16, hidden=32, heads=2, encoder=2, decoder=1, turned=4, vocabulary=20)
LOOKS = HearConfig(rank=2, looks=((4, 4), (2, 2)), share=(0.5, 0.5))


@pytest.fixture
def folder(tmp_path):
    """Four recordings of noise that comes and goes, two of them in a folder below."""
    (tmp_path / "sounds/apart").mkdir(parents=True)
    for number, seconds in enumerate((1.2, 1.5, 2.9, 1.1)):
        rng = np.random.default_rng(number)
        loud = np.sin(np.arange(int(seconds * RATE)) / 3000 + number) ** 2
        data = (loud * rng.uniform(-9000, 9000, len(loud))).astype("<i2")
        place = f"sounds/{'apart/' * (number == 3)}{number}.wav"
        with wave.open(str(tmp_path / place), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(data.tobytes())
    return tmp_path


def test_utterances_are_cut_where_it_is_quiet_and_lose_nothing():
    loud = np.ones(5 * RATE, np.float32)
    loud[int(1.5 * RATE) : int(1.7 * RATE)] = 0
    first, *rest = cut(loud, 2.0)
    assert 1.5 * RATE <= len(first) <= 1.7 * RATE
    assert sum(map(len, (first, *rest))) == len(loud) and max(map(len, rest)) <= 2 * RATE
    assert cut(loud[: RATE // 2], 2.0) == []


def test_a_teacher_hears_a_folder_once(folder):
    asked = []

    def teacher(audio):
        asked.append(len(audio))
        return np.full((3, 2), len(asked), np.float32), [len(asked), 7]

    files = recordings(folder / "sounds")
    assert [f.name for f in files] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    data = taught(files, 2.0, teacher, "a", folder / "cache")
    assert len(data) == len(asked) == 5  # the third is two
    audio, features, tokens = data[3]
    assert len(audio) == asked[3] and tokens.tolist() == [4, 7] and (features == 4).all()
    whole = np.concatenate([data[i][0] for i in range(len(data))])
    want = np.concatenate([decoded(f) for f in files])
    np.testing.assert_allclose(whole, want, atol=1e-3)
    taught(files, 2.0, teacher, "a", folder / "cache")
    assert len(asked) == 5  # it was kept
    taught(files, 2.0, teacher, "another", folder / "cache")
    assert len(asked) == 10
    with pytest.raises(DataError, match="no sound files"):
        recordings(folder / "cache")
    (folder / "sounds/4.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"4\.wav"):
        decoded(folder / "sounds/4.wav")


def test_batches_by_number_hold_each_utterance_once(folder):
    def teacher(audio):
        return np.ones((features_of(len(audio)), 2), np.float32), [3] * (len(audio) % 9)

    data = taught(recordings(folder / "sounds"), 2.0, teacher, "a", folder)
    config = Recordings(longest=2.0, sizes=(0.7, 1.0), louder=0.0)
    make = lambda mine: Batches(data, config, 2, mine, (0.5, 0.5), 1, 2, seed=0)
    both, one = make(range(2)), make(range(1, 2))
    seen = []
    for step in range(both.per):
        batch, mine = both[step], one[step]
        for name, value in batch.items():
            np.testing.assert_array_equal(value[1:], mine[name])
            np.testing.assert_array_equal(value, both[step][name])
        assert batch["audio"].shape[1] in (int(1.4 * RATE), 2 * RATE)
        assert len(set(batch["look"])) == 1 and (batch["tokens"][:, 0] == 1).all()
        for row in range(2):
            written = batch["written"][row]
            assert (batch["tokens"][row, 1 : written + 1] == 3).all()
            assert (batch["tokens"][row, written + 1 :] == 2).all()
            seen.append(int(batch["lengths"][row]))
    assert len(seen) == len(set(seen)) == 4  # of five, two batches of two
    assert {int(both[step]["look"][0]) for step in range(20)} == {0, 1}


def test_edits():
    assert (edits([], [1, 2]), edits([1, 2, 3], [1, 3]), edits([1, 2], [1, 4])) == (2, 1, 1)


@pytest.mark.slow
def test_a_stream_learns_to_hear_as_its_teacher(folder):
    model = Moonshine(SMALL)
    audio, tokens = np.zeros((1, 2000), np.float32), np.ones((1, 2), np.int32)
    variables = jax.jit(model.init)(jax.random.key(0), audio, tokens)
    variables = jax.tree.map(
        lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )
    weights = folder / "teacher.safetensors"
    save(weights, variables, {"model": "moonshine-tiny", "config": dataclasses.asdict(SMALL)})
    recipe = HearingRecipe(
        data=Recordings(str(folder / "sounds"), longest=2.0, held_out=("apart",)),
        teacher=str(weights),
        past=30,
        hear=LOOKS,
        loop=LoopConfig(
            steps=60, batch=2, out=str(folder / "run"), tensorboard=False, log_every=30,
            optim=OptimConfig(learning_rate=1e-2, weight_decay=0.0, ema=0.0),
        ),
    )  # fmt: skip
    job = recipe.build()
    result = run(job, recipe.loop, log=lambda line: None)
    first, last = (
        float(np.mean([row["loss"] for row in rows]))
        for rows in (result.history[:6], result.history[-6:])
    )
    assert last < 0.7 * first and result.scores["token_errors"] >= 0
    # what is saved is the teacher with other matrices in its encoder, and nothing else
    learned = job.task.variables(result.params)["params"]
    assert jax.tree.structure(learned) == jax.tree.structure(variables["params"])
    changed = {
        name
        for name in learned
        if any(
            np.any(np.asarray(a) != np.asarray(b))
            for a, b in zip(
                *(jax.tree.leaves(tree[name]) for tree in (learned, variables["params"])),
                strict=True,
            )
        )
    }
    assert changed == {"encoder_0", "encoder_1"}


def test_no_recordings_is_told():
    with pytest.raises(DataError, match=r"data\.path=FOLDER"):
        HearingRecipe().build()
    with pytest.raises(ValueError, match="1 together"):
        HearConfig(share=(0.5, 0.1, 0.1))


def test_links_are_followed_each_folder_once(folder):
    links = folder / "links"
    links.mkdir()
    (links / "all").symlink_to(folder / "sounds")
    (links / "one.wav").symlink_to(folder / "sounds/0.wav")
    (links / "gone.wav").symlink_to(folder / "nothing.wav")
    (folder / "sounds/apart/round").symlink_to(links)  # back to where it is found
    found = [str(p.relative_to(links)) for p in recordings(links)]
    assert found == ["all/0.wav", "all/1.wav", "all/2.wav", "all/apart/3.wav", "one.wav"]
