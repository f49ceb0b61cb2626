"""`streamzoo generate`: the schedule, what is refused, and the video that is there."""

import re

import av
import numpy as np
import pytest

from streamzoo.streaming import cli
from streamzoo.streaming.generating import Costs, at_rate, blocks, in_blocks, switches
from streamzoo.streaming.sources import Frame
from streamzoo.streaming.video_writer import VideoWriter
from streamzoo.zoo import model_card
from streamzoo.zoo.generate.balls import picture
from streamzoo.zoo.generate.balls.names import CONFIG, stream
from streamzoo.zoo.generate.balls.source import Motion
from streamzoo.zoo.generate.generator import Generator
from streamzoo.zoo.registry import BUNDLED

NAME = "balls-tiny/bounce"


def plan(later, first=None, seconds=60.0, per_block=0.25):
    return switches(first, later, seconds, per_block, picture.condition)


def test_a_class_holds_from_a_whole_block_on():
    got = plan([("20.1", "huge"), ("5", "tiny"), ("0.01", "small")])
    assert [(s.name, s.block) for s in got] == [("small", 1), ("tiny", 20), ("huge", 81)]
    assert [round(s.late(0.25), 6) for s in got] == [0.24, 0, 0.15]


@pytest.mark.parametrize(
    "later, says",
    [
        ([("soon", "huge")], "'soon' is no number of seconds"),
        ([("60", "huge")], "the video has 60 s; give a time in it"),
        ([("0", "huge")], "give a time in it"),
        ([("5", "red")], "--at 5: no class 'red'; the classes are tiny, small, large, huge"),
        ([("5.1", "huge"), ("5.2", "tiny")], "meet in one block of 0.25 s; leave one out"),
    ],
)
def test_what_is_wrong_is_said(later, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        plan(later)
    with pytest.raises(ValueError, match="no class 'blue'"):
        plan([], first="blue")


def test_a_switch_reaches_the_generator_at_its_block_only():
    seen = []

    class Watched(Generator):
        def switch(self, state, condition, **more):
            seen.append(int(np.argmax(condition)))
            return super().switch(state, condition, **more)

    generator = Watched.create("balls-tiny", rollout=stream())
    told = lambda block: (picture.condition("huge" if block >= 2 else "tiny"), block == 2)
    one = [latents for _, latents, _ in blocks(generator, told, 4, seed=1)]
    assert seen == [3] and all(latents.shape == (3, 1, 1, 32) for latents in one)
    same = lambda block: (picture.condition("tiny"), False)
    other = [latents for _, latents, _ in blocks(generator, same, 4, seed=1)]
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        assert np.array_equal(a, b) == (i < 2), i


def test_pictures_are_products_of_their_profiles():
    profile = np.exp(-0.5 * np.square((np.arange(16) - np.asarray([[3.0], [12.0]])) / 0.9))
    latent = picture.SCALE * profile.reshape(1, 32) + picture.SHIFT
    image = picture.draw(latent, 64)[0]
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    row, column = np.unravel_index(image[..., 0].argmax(), (64, 64))
    # the ball's middle: 3 of 15 cells across, 12 of 15 down
    assert abs(column - 63 * 3 / 15) < 2 and abs(row - 63 * 12 / 15) < 2
    assert image[..., 0].max() > 225 and np.median(image[..., 0]) < 25


def test_rates_leave_out_the_block_that_compiled():
    costs = Costs(3, [2.0, 0.01, 0.01], [3.0, 0.03, 0.03], cold=3.0, warm=0.02)
    assert (costs.rate(costs.made), costs.rate(costs.drawn)) == (
        pytest.approx(300),
        pytest.approx(100),
    )
    assert "9 frames" in costs.line() and "3.00 s cold, 0.020 s warm" in costs.line()


def shown(times):
    """Frames whose picture is the number of the frame."""
    return [Frame(np.full(1, i), t, i, (1, 1), 0.0) for i, t in enumerate(times)]


def test_a_source_is_brought_to_the_rate_of_the_video():
    numbers = lambda times, fps: [int(p[0]) for p in at_rate(shown(times), fps)]
    assert numbers(np.arange(12) / 30, 10) == [0, 3, 6, 9, 11]  # the newest that is there
    assert numbers(5 + np.arange(3) / 5, 10) == [0, 0, 1, 1, 2]  # held, from its own beginning
    assert numbers([0.0, 0.1, 0.6], 10) == [0, 1, 1, 1, 1, 1, 2] and numbers([], 10) == []
    assert [b.tolist() for b in in_blocks(iter(range(8)), 3)] == [[0, 1, 2], [3, 4, 5]]


def square(column, row, size=8):
    """A white square on black, 64 x 64, its middle in cells of 4 pixels."""
    image = np.zeros((64, 64, 3), np.uint8)
    left, top = int(4 * column + 2 - size / 2), int(4 * row + 2 - size / 2)
    image[max(top, 0) : top + size, max(left, 0) : left + size] = 255
    return image


def middle(latent):
    """(column, row) of a latent's ball."""
    light = np.clip(picture.SCALE**-1 * (latent.reshape(2, 16) - picture.SHIFT), 0, None)
    return light @ np.arange(16) / light.sum(axis=1)


def test_what_moves_is_where_the_ball_is():
    motion = Motion()
    first = motion(square(3, 3))
    np.testing.assert_allclose(middle(first), 7.5, atol=0.1)  # nothing has moved yet
    motion(square(3, 3))
    for column in np.arange(4, 12, 0.5):
        latent = motion(square(column, 6))
        if column < 6:  # the background has yet to forget where it stood
            continue
        assert abs(middle(latent)[1] - 6) < 1 and -2 < middle(latent)[0] - column < 0.6, column
    latent = motion(square(11, 6))
    for _ in range(60):  # it rests until the background has it, and the ball stays
        latent = motion(square(11, 6))
    np.testing.assert_array_equal(motion(square(11, 6)), latent)
    assert np.abs(middle(latent) - (11, 6)).max() < 1
    with pytest.raises(ValueError, match=r"a picture \[32, 32, 3\]; motion is looked for in 64"):
        motion(np.zeros((32, 32, 3), np.uint8))


def test_strength_is_how_many_levels_are_left():
    steps = [len(stream(strength=s).levels.steady) for s in (0.25, 0.3, 0.5, 0.75, 1.0)]
    assert steps == [1, 1, 2, 3, 4]
    assert stream(strength=0.5).levels.steady == stream().levels.steady[2:]
    with pytest.raises(ValueError, match="strength 0.2: give 0.25 to 1"):
        stream(strength=0.2)


bundled = pytest.mark.skipif(
    not (BUNDLED / "balls-tiny.bounce.safetensors").is_file(), reason="no weights in the package"
)


@bundled
def test_the_command_writes_what_was_asked_for(tmp_path, capsys):
    out = tmp_path / "balls.mp4"
    words = ["generate", NAME, "--seconds", "4", "--class", "tiny", "--at", "2.1", "huge"]
    assert cli.main([*words, "--size", "64", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert (
        "--at 2.1 huge falls inside of a block of 3 frames; it is held until the next one, 2.25 s"
        in said
    )
    assert "frames/s: " in said and "s cold" in said and "4.0 s of video, 12 frames/s" in said
    with av.open(str(out)) as video:
        images = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(images) == 48 and images[0].shape == (64, 64, 3)
    light = np.asarray([(image[..., 0] > 100).sum() for image in images])
    # the tiny ball covers few pixels, the huge one many
    assert light[36:].mean() > 3 * light[:24].mean() > 0


@bundled
@pytest.mark.parametrize(
    "words, says",
    [
        (["--class", "red"], "no class 'red'; the classes are tiny, small, large, huge"),
        (["--at", "70", "huge"], "the video has 10 s"),
        (["--seconds", "-1"], "--seconds"),
    ],
)
def test_the_command_refuses_in_one_line(words, says, tmp_path, capsys):
    out = tmp_path / "no.mp4"
    assert cli.main(["generate", *words, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not out.exists()


@bundled
@pytest.mark.parametrize(
    "words, says",
    [
        (["--source", "no.mp4"], "--source no.mp4: no such file"),
        (["--source", "no.mp4", "--strength", "1"], "--strength 1 leaves nothing of a source"),
        (["--source", "no.mp4", "--strength", "0.1"], "strength 0.1: give 0.25 to 1"),
    ],
)
def test_sources_that_cannot_be_made_anew(words, says, tmp_path, capsys):
    out = tmp_path / "no.mp4"
    assert cli.main(["generate", *words, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not out.exists()


@bundled
def test_a_video_is_made_anew_and_its_ball_follows_what_moves(tmp_path, capsys):
    """30 frames/s become 12; a square goes round, and at the lowest strength the ball goes with it;
    the same file through the first level alone does not."""
    given, out = tmp_path / "square.mp4", tmp_path / "balls.mp4"
    writer = VideoWriter(given, 30.0, (64, 64))
    turn = np.arange(105) / 30 * 2 * np.pi / 3
    for angle in turn:
        writer.write(square(7.5 + 4 * np.cos(angle), 7.5 + 4 * np.sin(angle)))
    writer.close()
    words = ["generate", "--source", str(given), "--strength", "0.25", "--size", "32"]
    assert cli.main([*words, "--out", str(out), "--class", "small"]) == 0
    assert "3.5 s of video, 12 frames/s" in capsys.readouterr().err
    with av.open(str(out)) as video:
        images = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(images) == 42
    light = np.asarray([image[..., 0] for image in images], float) - 18
    at = (np.arange(32) + 0.5) / 2 - 0.5
    x = (light.sum(axis=1) @ at) / light.sum(axis=(1, 2))
    y = (light.sum(axis=2) @ at) / light.sum(axis=(1, 2))
    angle = np.arange(42) / 12 * 2 * np.pi / 3
    for got, want in ((x, np.cos(angle)), (y, np.sin(angle))):
        assert np.corrcoef(got[6:], want[6:])[0, 1] > 0.7


def test_a_model_that_does_not_generate_is_refused(capsys, tmp_path):
    assert cli.main(["generate", "tsa-s16", "--out", str(tmp_path / "no.mp4")]) == 2
    assert "tsa-s16 makes no video by a class; balls-tiny/bounce does" in capsys.readouterr().err


def test_the_card_says_what_is_made():
    card = model_card("balls-tiny")
    assert (card.task, card.classes, card.frame_rate) == ("generate", picture.CLASSES, 12.0)
    assert CONFIG.frame_shape == (1, 1, 32) and stream().read.window == 12
