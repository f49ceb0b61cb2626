"""DAVIS: archives and folders give the same clips, honest splits, errors that say what is wrong;
clips that are moved, mirrored and pasted keep mask and picture together."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamzoo.train.data import mask_clips
from streamzoo.train.data.base import DataError
from streamzoo.train.data.davis import Davis, split
from streamzoo.train.data.mask_clips import Augment, MaskClips

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
SIZE = (24, 32)


def png(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def files(sequences=("bear", "car"), frames=9):
    """Name -> bytes: a red square on blue (bear) or green on black (car) that moves right."""
    found = {}
    for s, name in enumerate(sequences):
        for t in range(frames):
            frame = np.zeros((*SIZE, 3), np.uint8)
            frame[..., 2] = 200 * (s == 0)
            mask = np.zeros(SIZE, np.uint8)
            mask[8:16, 4 + t : 12 + t] = 255
            frame[mask > 0] = (255, 0, 0) if s == 0 else (0, 255, 0)
            found[f"JPEGImages/240p/{name}/{t:05}.jpg"] = png(frame, "JPEG")
            found[f"Annotations/240p/{name}/{t:05}.png"] = png(mask)
    return found


def write(folder, found):
    for name, data in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(path, found):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return path


def test_archives_and_folders_give_the_same(tmp_path):
    folder = write(tmp_path / "davis", files())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "DAVIS")
    sources = [Davis(p) for p in (folder, zipped(tmp_path / "a.zip", files()), tmp_path / "a.tar")]
    clips = []
    for source in sources:
        assert source.videos == ("bear", "car") and source.length(1) == 9 and len(source) == 2
        clips.append(source.read(1, 2, 3, stride=2))
    for clip in clips:
        assert clip.frames.shape == (3, *SIZE, 3) and clip.masks.dtype == np.uint8
        np.testing.assert_array_equal(clip.frames, clips[0].frames)
        want = np.zeros((3, *SIZE), np.uint8)
        for i, t in enumerate((2, 4, 6)):
            want[i, 8:16, 4 + t : 12 + t] = 1
        np.testing.assert_array_equal(clip.masks, want)
    small = Davis(folder, ("car",), size=(12, 16)).read(0)
    assert small.frames.shape == (9, 12, 16, 3) and set(np.unique(small.masks)) == {0, 1}


def test_numbers_of_objects_are_kept(tmp_path):
    found = files(("bear",), 1)
    mask = Image.fromarray(np.asarray([[0, 1, 2, 1] * 8] * 24, np.uint8), "P")
    mask.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    file = io.BytesIO()
    mask.save(file, "PNG")
    found["Annotations/240p/bear/00000.png"] = file.getvalue()
    clip = Davis(zipped(tmp_path / "a.zip", found)).read(0)
    assert clip.masks[0, 0, :4].tolist() == [0, 1, 2, 1]


def test_wrong_data_is_named(tmp_path):
    whole = zipped(tmp_path / "a.zip", files())
    with pytest.raises(DataError, match="is not at .*nowhere.* give the archive"):
        Davis(tmp_path / "nowhere.zip")
    with pytest.raises(DataError, match="no sequence 'cat'; there are bear, car"):
        Davis(whole, ("cat",))
    (tmp_path / "b.zip").write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(DataError, match="copy it again"):
        Davis(tmp_path / "b.zip")
    with pytest.raises(DataError, match="no JPEGImages"):
        Davis(zipped(tmp_path / "c.zip", {"readme.txt": b""}))
    lacking = files()
    del lacking["Annotations/240p/car/00003.png"]
    with pytest.raises(DataError, match="car/00003.jpg has no mask at Annotations/240p/car/00003"):
        Davis(zipped(tmp_path / "d.zip", lacking))
    broken = files() | {"JPEGImages/240p/car/00003.jpg": b"no picture"}
    with pytest.raises(DataError, match="car/00003.jpg is no picture"):
        Davis(zipped(tmp_path / "e.zip", broken)).read(1)
    other = files() | {"Annotations/240p/bear/00001.png": png(np.zeros((4, 4), np.uint8))}
    with pytest.raises(DataError, match="bear are of sizes .* give size="):
        Davis(zipped(tmp_path / "f.zip", other)).read(0)


def test_split_by_sequence():
    train, held = split([f"s{i:02}" for i in range(16)][::-1])
    assert held == ("s03", "s07", "s11", "s15")
    assert not set(train) & set(held) and len(train) == 12


def test_the_shipped_config_splits_the_shared_data():
    from streamzoo.train.settings import load_config

    config = load_config("davis_tracker")
    train, held = split(config.sequences + config.held_out)
    assert (config.sequences, config.held_out) == (train, held)
    path = SHARED / "davis16_val_240p.zip"
    if not path.is_file():
        pytest.skip(f"no {path}")
    assert Davis(path).videos == tuple(sorted(train + held))
    clip = Davis(path, ("cows",), size=(192, 352)).read(0, 3, 2)
    assert clip.frames.shape == (2, 192, 352, 3) and 0.02 < clip.masks.mean() < 0.5


@pytest.fixture
def source(tmp_path):
    return Davis(zipped(tmp_path / "a.zip", files()), size=SIZE)


def clips(source, **change):
    plain = dict(reverse=0.0, mirror=0.0, paste=0.0, zoom=(1.0, 1.0), colour=0.0, strides=(1,))
    return MaskClips(source, 4, 0, range(3), Augment(**{**plain, **change}))


def test_clips_follow_from_the_step(source):
    batches = clips(source, paste=0.5, zoom=(1.0, 1.5))
    a, b, other = batches[5], batches[5], batches[6]
    assert a["frames"].shape == (3, 4, *SIZE, 3) and a["masks"].dtype == bool
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(a["frames"], other["frames"])
    found = next(mask_clips.batches(source, 2, 4, 0, Augment(), host=1, hosts=2))
    assert found["masks"].shape == (1, 4, *SIZE) and found["masks"][:, 0].any()
    with pytest.raises(DataError, match="3 cannot be shared by 2"):
        mask_clips.batches(source, 3, 4, 0, Augment(), hosts=2)
    with pytest.raises(DataError, match="fewer than 10 frames"):
        MaskClips(source, 10, 0, range(1), Augment())


def colours(frames, masks):
    return frames[masks].astype(int).mean(0), frames[~masks].astype(int).mean(0)


def test_masks_move_with_their_pictures(source):
    for change in (dict(reverse=1.0), dict(mirror=1.0), dict(zoom=(1.5, 2.0)), dict(strides=(2,))):
        batch = clips(source, **change)[1]
        for frames, masks in zip(batch["frames"], batch["masks"], strict=False):
            inside, outside = colours(frames, masks)
            assert inside[:2].max() > 150 and outside[:2].max() < 60, change
    away = np.flatnonzero(clips(source)[0]["masks"][0, -1].any(0))[0]
    home = np.flatnonzero(clips(source, reverse=1.0)[0]["masks"][0, -1].any(0))[0]
    assert away - home == 3  # it moves a pixel per frame, to the right or back


def test_either_of_two_objects_is_meant(source):
    which = {0: 0, 1: 0}
    for step in range(4):
        batch = clips(source, paste=1.0)[step]
        for frames, masks in zip(batch["frames"], batch["masks"], strict=False):
            red, green = (np.asarray(frames[..., i] > 150) for i in (0, 1))
            assert red.any() or green.any()
            inside = colours(frames, masks)[0]
            which[int(inside[1] > inside[0])] += 1
            assert inside[:2].max() > 120
    assert min(which.values()) > 0
