"""Files that are cut off, of the containers whose parts are each whole in themselves."""

import os
import struct

import numpy as np
import pytest

from streamzoo.streaming.sources import SourceError, open_source
from streamzoo.streaming.sources.ending import cut_short

from .odd_files import write

FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
KINDS = {
    "fragments.mp4": {"out_options": {"movflags": "frag_keyframe+empty_moov"}},
    "head_and_fragments.mp4": {"out_options": {"movflags": "frag_keyframe"}},
    "no_trailer.mp4": {"out_options": {"movflags": FRAGMENTS + "+skip_trailer"}},
    "sound.mp4": {"out_options": {"movflags": FRAGMENTS}, "sound": (0, 8)},
    "a.wmv": {"codec": "wmv2", "format": "asf"},
    "sound.wmv": {"codec": "msmpeg4", "format": "asf", "sound": (0, 6)},
    "a.nut": {},
    "b_frames.nut": {"bf": 2},
    "a.ogg": {"codec": "libvpx", "format": "ogg"},
    "a.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


def boxes(data, begin=0):
    """(kind, begin, end) of an MP4's boxes, side by side."""
    while begin < len(data):
        length, kind = struct.unpack_from(">I4s", data, begin)
        yield kind, begin, begin + length
        begin += length


def said(path, format):
    """What a file that is cut says, by its structure alone."""
    words = cut_short(str(path), format)
    assert words is not None
    return words


def read(path):
    """Number of pictures, and what is said of the file in the end."""
    with open_source(path) as source:
        return len(list(source)), source.warning


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_is_told_wherever_it_is(tmp_path, name):
    clip = write(tmp_path / name, frames=60, **KINDS[name])
    assert read(clip) == (60, None)
    data = clip.read_bytes()
    # between two fragments nothing tells: see the tests of `sidx` and `mehd`
    silent = {end for _, _, end in boxes(data)} if name.endswith("mp4") else set()
    told, fewer = 0, 0
    for cut in np.linspace(0.4, 0.995, 10) * len(data):
        if int(cut) in silent:
            continue
        clip.write_bytes(data[: int(cut)])
        try:
            count, warning = read(clip)
        except SourceError as error:  # FFmpeg opens no MP4 whose last head is cut
            assert name.endswith("mp4") and "was cut off" in str(error)
            continue
        if name.endswith("wmv") and warning is None:  # only its index is cut
            assert count == 60 and cut > 0.95 * len(data)
            continue
        assert 0 < count <= 60 and warning is not None, (name, int(cut))
        assert f"{clip}: truncated or damaged (" in warning and "\n" not in warning
        told, fewer = told + 1, fewer + (count < 60)
    assert told > 4 and fewer > 3


@pytest.mark.parametrize("left", [1, 7, 8, 30])
def test_the_head_of_a_fragment_alone(tmp_path, left):
    clip = write(tmp_path / "a.mp4", out_options={"movflags": FRAGMENTS})
    data = clip.read_bytes()
    moofs = [begin for kind, begin, _ in boxes(data) if kind == b"moof"]
    os.truncate(clip, moofs[-1] + left)
    assert cut_short(str(clip), "mov,mp4,m4a") is not None
    os.truncate(clip, moofs[-1])
    assert cut_short(str(clip), "mov,mp4,m4a") is None  # it cannot be known


def test_an_index_of_fragments_knows_what_follows(tmp_path):
    """Cut between two fragments; of two forms of the index (ISO 14496-12 8.16.3)."""
    flags = "dash+global_sidx+" + FRAGMENTS
    clip = write(tmp_path / "a.mp4", frames=40, out_options={"movflags": flags})
    assert read(clip) == (40, None)
    data = clip.read_bytes()
    ends = [end for kind, _, end in boxes(data) if kind == b"mdat"]
    at, stop = next((begin, end) for kind, begin, end in boxes(data) if kind == b"sidx")
    clip.write_bytes(data[: ends[2]])
    count, warning = read(clip)
    assert warning is not None
    assert count == 24 and f"its index (sidx) goes to byte {ends[-1]}, it has {ends[2]}" in warning
    assert data[at + 8] == 1  # 64 bits; of 32:
    earliest, first = struct.unpack_from(">QQ", data, at + 20)
    narrow = bytes(4) + data[at + 12 : at + 20] + struct.pack(">II", earliest, first + 8)
    narrow = struct.pack(">I4s", stop - at - 8, b"sidx") + narrow + data[at + 36 : stop]
    clip.write_bytes(data[:at] + narrow + struct.pack(">I4s", 8, b"free") + data[stop : ends[2]])
    assert f"goes to byte {ends[-1]}" in said(clip, "mp4")


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("seconds, told", [(4.0, False), (9.0, True), (0.0, False)])
def test_a_head_that_knows_the_length_of_all_fragments(tmp_path, wide, seconds, told):
    """A `mehd` (ISO 14496-12 8.8.2), which FFmpeg does not write."""
    clip = write(tmp_path / "a.mp4", frames=40, out_options={"movflags": FRAGMENTS})
    data = bytearray(clip.read_bytes())
    (scale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 4 + 12)
    head = struct.pack(">4sI", b"mehd", wide << 24)
    head += struct.pack(">Q" if wide else ">I", round(seconds * scale))
    head = struct.pack(">I", len(head) + 4) + head
    mvex = data.index(b"mvex")
    for place in (mvex - 4, data.index(b"moov") - 4):
        (length,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, length + len(head))
    clip.write_bytes(data[: mvex + 4] + head + data[mvex + 4 :])
    count, warning = read(clip)
    assert count == 40 and (warning is not None) == told


def test_sound_that_lasts_longer_fills_the_length(tmp_path):
    clip = write(tmp_path / "a.mp4", out_options={"movflags": FRAGMENTS}, sound=(0, 6))
    data = bytearray(clip.read_bytes())
    (scale,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 4 + 12)
    head = struct.pack(">I4sII", 16, b"mehd", 0, 6 * scale)
    mvex = data.index(b"mvex")
    for place in (mvex - 4, data.index(b"moov") - 4):
        (length,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, length + len(head))
    clip.write_bytes(data[: mvex + 4] + head + data[mvex + 4 :])
    assert read(clip) == (20, None)


def test_the_frames_of_the_head_are_not_all_of_them(tmp_path):
    clip = write(tmp_path / "a.mp4", frames=40, out_options={"movflags": "frag_keyframe"})
    with open_source(clip) as source:
        assert source.frame_count is None and len(list(source)) == 40


def test_what_lies_behind_a_whole_video_is_no_cut(tmp_path):
    clip = write(tmp_path / "a.mp4", out_options={"movflags": FRAGMENTS})
    whole = clip.read_bytes()
    for behind in (
        bytes(100),
        b"\0\0\4\0SEFTsomething of the camera's",
        struct.pack(">I4s", 0, b"mdat"),
    ):
        clip.write_bytes(whole + behind)
        assert cut_short(str(clip), "mp4") is None, behind
    gif = write(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8")
    gif.write_bytes(gif.read_bytes() + bytes(7))
    assert read(gif) == (20, None)


def test_an_asf_that_was_sent_live_has_no_numbers(tmp_path):
    clip = write(tmp_path / "a.wmv", codec="wmv2", format="asf", frames=60)
    data = bytearray(clip.read_bytes())
    at = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    data[at + 88] |= 1
    clip.write_bytes(data[: len(data) // 2])
    assert cut_short(str(clip), "asf") is None
    data[at + 88] &= 254
    clip.write_bytes(data[: len(data) // 2])
    assert "it announces" in said(clip, "asf")


def test_other_formats_and_what_is_no_file_are_not_judged(tmp_path):
    clip = write(tmp_path / "a.mkv")
    assert cut_short(str(clip), "matroska,webm") is None
    assert cut_short(str(tmp_path), "asf") is cut_short(str(tmp_path / "none"), "nut") is None
    clip.write_bytes(b"")
    assert cut_short(str(clip), "asf") is cut_short(str(clip), "mov,mp4") is None


def test_an_animated_webp_is_refused_with_what_would_do(tmp_path):
    """The remedy is run, too: the same pictures at the same times."""
    Image = pytest.importorskip("PIL.Image")
    pictures = [Image.fromarray(np.full((48, 64, 3), 20 * k, np.uint8)) for k in range(8)]
    webp = tmp_path / "it.webp"
    pictures[0].save(webp, save_all=True, append_images=pictures[1:], duration=200, lossless=True)
    with pytest.raises(SourceError, match="an animated WebP, .* make a GIF") as refused:
        open_source(webp)
    assert "\n" not in str(refused.value) and "damaged" not in str(refused.value)
    code = str(refused.value).split('python -c "')[1].rstrip('"')
    code = code.replace("it.", f"{tmp_path}/it.")
    exec(code, {})
    with open_source(tmp_path / "it.gif") as source:
        frames = list(source)
    assert [f.image[0, 0, 0] for f in frames] == [20 * k for k in range(8)]
    np.testing.assert_allclose([f.time for f in frames], 0.2 * np.arange(8), atol=1e-6)
    pictures[3].save(tmp_path / "still.webp", lossless=True)
    assert read(tmp_path / "still.webp") == (1, None)
    still = (tmp_path / "still.webp").read_bytes()
    (tmp_path / "cut.webp").write_bytes(still[: len(still) // 2])
    with pytest.raises(SourceError, match="cut off or damaged"):
        open_source(tmp_path / "cut.webp")


def chunks(data):
    """Where the pictures of an AVI of one track begin."""
    at = data.index(b"movi") + 4
    while data[at : at + 4] == b"00dc":
        yield at
        (length,) = struct.unpack_from("<I", data, at + 4)
        at += 8 + length + length % 2


@pytest.mark.parametrize("bf", [0, 2])
def test_an_avi_cut_between_two_pictures_is_told_by_its_count(tmp_path, bf):
    """No packet is torn there; FFmpeg gives the length of what is there, and the header's count."""
    clip = write(tmp_path / "a.avi", frames=40, bf=bf)
    assert read(clip) == (40, None)
    data = clip.read_bytes()
    begins = list(chunks(data))
    assert len(begins) == 40
    for left in (39, 38, 30, 17):
        clip.write_bytes(data[: begins[left]])
        count, warning = read(clip)
        assert warning is not None and f"{count} of 40 frames" in warning
        assert left - bf - 1 <= count <= left


def test_an_avi_whose_length_is_right_and_whose_count_is_not_is_whole(tmp_path):
    """A writer that counted too few, and one whose rate is rounded."""
    clip = write(tmp_path / "a.avi", frames=40)
    data = bytearray(clip.read_bytes())
    at = data.index(b"strh") + 8 + 32  # dwLength
    assert struct.unpack_from("<I", data, at) == (40,)
    struct.pack_into("<I", data, at, 36)
    clip.write_bytes(data)
    assert read(clip) == (40, None)


def test_a_last_packet_that_is_cut_is_told_where_nothing_else_is(tmp_path):
    """An animated PNG announces neither its length nor its structure here."""
    clip = write(tmp_path / "a.apng", frames=30, codec="apng", pix_fmt="rgb24")
    assert read(clip) == (30, None)
    os.truncate(clip, clip.stat().st_size // 2)
    count, warning = read(clip)
    assert 0 < count < 30 and warning is not None and "truncated" in warning
