"""The small student's training: batches that repeat, boxes that follow, a loss that falls."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo import zoo
from streamzoo.configs import ucf11_student as recipe_file
from streamzoo.configs.ucf11_student import Recipe
from streamzoo.train import augment, losses, ucf11
from streamzoo.train import fit as loop
from streamzoo.train.augment import Augment, follow, whole
from streamzoo.train.evaluate import match

look = jax.jit(augment.look, static_argnames=("size", "grid"))
random_view = jax.jit(augment.random_view, static_argnames=("config", "size", "grid"))
person_loss = jax.jit(losses.person_loss)
ARCHIVE = Path(__file__).resolve().parents[2] / Recipe.data
SIZE = (32, 48)


def clips(count=4, seed=0) -> ucf11.Clips:
    rng = np.random.default_rng(seed)
    boxes = np.zeros((count, 5, 8, 4), np.float32)
    boxes[..., 0, :] = 0.2, 0.1, 0.6, 0.9
    scores = np.zeros((count, 5, 8), np.float32)
    scores[..., 0] = 0.9
    return ucf11.Clips(
        rng.integers(0, 255, (count, 5, 60, 80, 3)).astype(np.uint8),
        rng.integers(0, 11, count).astype(np.int32),
        tuple(f"train/swing/v_swing_{i:02}_01" for i in range(count)),
        boxes,
        scores,
        rng.normal(size=(count, 5, 2, 3, 8)).astype(np.float16),
    )


def archive(path: Path, names: list[str]) -> Path:
    from PIL import Image

    with zipfile.ZipFile(path, "w") as file:
        for i, name in enumerate(names):
            for t in range(5):
                data = io.BytesIO()
                Image.new("RGB", (160, 120), (i * 20, t * 40, 0)).save(data, "JPEG")
                file.writestr(f"{name}_{t}.jpg", data.getvalue())
    return path


def test_labels_come_from_file_names_and_leaked_groups_are_left_out(tmp_path):
    pytest.importorskip("PIL")
    path = archive(
        tmp_path / "a.zip",
        [
            "train/walking/v_walk_dog_01_01",
            "train/walking/v_spiking_01_01",  # a volleyball clip in the walking folder
            "train/golf_swing/v_golf_23_02",  # shows the scene of a test group
            "test/walking/v_walk_dog_07_01",
            "test/walking/v_spiking_04_01",  # its second cut: once is enough
        ],
    )
    train, test = ucf11.read_split(path, "train"), ucf11.read_split(path, "test")
    words = list(ucf11.CLASSES)
    assert [words[i] for i in train.labels] == ["spiking", "walk_dog"]
    assert test.names == ("test/walking/v_walk_dog_07_01",)
    assert train.frames.shape == (2, 5, 120, 160, 3)
    # frames in order of time: t * 40 in the green channel
    assert (np.diff(train.frames[0, :, 0, 0, 1].astype(int)) > 30).all()


def test_missing_files_name_the_remedy(tmp_path):
    with pytest.raises(ucf11.DataError, match="--data"):
        ucf11.read_split(tmp_path / "none.zip", "train")
    with pytest.raises(ucf11.DataError, match="--detector"):
        ucf11.add_boxes(clips(), tmp_path / "none.onnx", tmp_path / "cache.npz")
    with pytest.raises(ucf11.DataError, match="--features"):
        ucf11.add_features(clips(), tmp_path / "none.npz")


def test_batches_repeat_and_go_on_after_a_restart():
    take = lambda start, n: [  # noqa: E731
        batch for batch, _ in zip(ucf11.batches(clips(7), 2, 3, seed=5, start=start), range(n))
    ]
    first, again, later = take(0, 6), take(0, 6), take(4, 2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    jax.tree.map(np.testing.assert_array_equal, first[4:], later)
    other = next(ucf11.batches(clips(7), 2, 3, seed=6))
    assert not np.array_equal(first[0].frames, other.frames)


def test_boxes_follow_crop_and_flip():
    # a bright rectangle where the box is: after any view it must be where the new box is
    base = clips(8)
    frames = np.zeros_like(base.frames)
    frames[:, :, 6:54, 16:48] = 255  # of 60 x 80: exactly the box 0.2, 0.1, 0.6, 0.9
    args = frames, base.boxes, base.scores, None
    config = Augment(light=0.0, tint=0.0, dark=0.0)
    view = random_view(jax.random.key(3), *args, config=config, size=(96, 128), grid=(6, 8))
    assert (view.scores[..., 0] > 0).any()
    for b in range(8):
        if view.scores[b, 0, 0] == 0:
            continue
        x1, y1, x2, y2 = np.asarray(view.boxes[b, 0, 0]) * (128, 96, 128, 96)
        cols, rows = np.arange(128) + 0.5, np.arange(96) + 0.5
        inside = ((rows > y1) & (rows < y2))[:, None] & ((cols > x1) & (cols < x2))
        bright = np.asarray(view.frames[b, 0, :, :, 0]) > 0.5
        assert (bright & inside).sum() / (bright | inside).sum() > 0.9


def test_view_of_the_whole_frame_changes_nothing_and_a_flip_twice_neither():
    base = clips(2)
    args = base.frames, base.boxes, base.scores, base.features
    crops, flip = whole(2)
    view = look(*args, crops, flip, size=(60, 80), grid=(2, 3))
    np.testing.assert_allclose(view.boxes, base.boxes, atol=1e-6)
    grey = base.frames.astype(np.float32).mean() / 255
    assert abs(float(view.frames.mean()) - grey) < 1e-2
    once = follow(jnp.asarray(base.boxes), jnp.asarray(base.scores), crops, ~flip)
    np.testing.assert_allclose(once[0][0, 0, 0], [0.4, 0.1, 0.8, 0.9], atol=1e-6)
    np.testing.assert_allclose(follow(*once, crops, ~flip)[0][..., 0, :], base.boxes[..., 0, :])


def test_a_box_cut_away_loses_its_score():
    crops = jnp.asarray([[0.55, 0.0, 1.0, 1.0]])  # an eighth of the box is left
    boxes, scores = jnp.asarray(clips(1).boxes), jnp.asarray(clips(1).scores)
    _, scores = follow(boxes, scores, crops, whole(1)[1])
    assert not scores.any()


def test_person_loss_is_least_for_the_right_answer():
    boxes = jnp.asarray([[[0.1, 0.2, 0.5, 0.9], [0.7, 0.1, 0.9, 0.6]]])
    scores = jnp.asarray([[0.9, 0.2]])  # the second is a weak one: ignored
    rows, cols = 6, 8
    right = jnp.full((1, rows, cols), -9.0).at[0, 3, 2].set(9.0)
    x, y = (np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows
    x, y = np.meshgrid(x, y)
    edges = jnp.asarray(np.stack([x - 0.1, y - 0.2, 0.5 - x, 0.9 - y], axis=-1)[None])
    best = person_loss(right, edges, boxes, scores)
    assert best[0] < 1e-3 and best[1] < 1e-5
    weak = right.at[0, 2, 6].set(9.0)  # saying the weak one costs nothing
    assert abs(person_loss(weak, edges, boxes, scores)[0] - best[0]) < 1e-3
    wrong = right.at[0, 5, 7].set(9.0)
    assert person_loss(wrong, edges, boxes, scores)[0] > best[0] + 1
    assert person_loss(right, edges + 0.1, boxes, scores)[1] > best[1] + 0.1


def test_matching_counts_each_person_once():
    boxes = np.asarray([[0.0, 0.0, 0.5, 1.0], [0.6, 0.0, 1.0, 1.0]])
    said = np.asarray([boxes[0], boxes[0], [0.0, 0.0, 0.1, 0.1]])
    assert match(said, boxes, np.asarray([0.9, 0.9]), 0.4) == (1, (1, 3))
    # the weak box is neither right nor wrong
    assert match(boxes, boxes, np.asarray([0.9, 0.2]), 0.4) == (1, (1, 1))


@pytest.fixture(scope="module")
def tiny():
    recipe = Recipe(image_size=SIZE, depth=1, batch=4, frames=2, rate=1e-2, warmup=0.0)
    model, optimiser, state = recipe_file.start(recipe, clips(), 100)
    step = loop.make_step(recipe_file.make_loss(model, recipe), optimiser, ema=0.5)
    return recipe, step, state


def test_steps_lower_the_loss_and_a_restart_repeats_them(tiny, tmp_path):
    recipe, step, state = tiny
    batches = lambda start: ucf11.batches(clips(), 4, 2, seed=0, start=start)  # noqa: E731
    copy = jax.tree.map(jnp.array, state)
    lines: list[str] = []
    half = loop.fit(step, copy, batches(0), 6, folder=tmp_path, every=3, log=lines.append)
    saved = loop.restore(tmp_path / "state.npz", state)
    straight = loop.fit(step, half, batches(6), 12, folder=tmp_path, log=lines.append)
    resumed = loop.fit(step, saved, batches(6), 12, folder=tmp_path, log=lines.append)
    jax.tree.map(np.testing.assert_array_equal, straight.params, resumed.params)
    loss = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert loss[2] < 0.9 * loss[0], lines
    # the state of another run is refused, not read
    with pytest.raises(ValueError, match="another run"):
        loop.restore(tmp_path / "state.npz", state._replace(memory=()))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    bad = lambda params, memory, key, batch: (params["x"] / 0.0, (memory, {}))  # noqa: E731
    optimiser = optax.sgd(0.1)
    state = loop.start({"x": jnp.float32(1.0)}, optimiser)
    with pytest.raises(FloatingPointError, match="lower the rate"):
        loop.fit(loop.make_step(bad, optimiser), state, [None], 1, folder=tmp_path)


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs {Recipe.data}")
def test_splits_share_no_group():
    train, test = (ucf11.members(ARCHIVE, split) for split in ("train", "test"))
    groups = lambda names: {ucf11.group(name) for name in names}  # noqa: E731
    assert not groups(train) & groups(test)
    assert (len(train), len(test)) == (1386, 316)
    for names in (train, test):
        assert {word for word, _ in groups(names)} == set(ucf11.CLASSES)


def test_the_card_describes_a_model_that_exists():
    card = recipe_file.card_of(Recipe())
    model = zoo.create_model(card.arch, **card.overrides)
    assert model.config.num_classes == len(card.classes) == 11
    assert model.config.image_size == card.input_size
