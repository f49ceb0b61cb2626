"""Odd video files, made by PyAV, and what FFmpeg's own tools say of them.

`odd_files.json` holds what they said, so that the tests need neither of them. Where `ffprobe` and
`ffmpeg` are installed, this file, run as a program, asks them again.
"""

import json
import re
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TABLE = Path(__file__).with_name("odd_files.json")
FILES = {}  # name: function of a path


def write(
    path, codec="libx264", frames=20, size=(48, 64), rate=10, pts=None, ticks=None, aspect=None,
    bf=0, gop=8, out_options=None, options=None, format=None, sound=None, tracks=(), fields=False,
    pix_fmt=None, cover=None,
):  # fmt: skip
    """Pictures whose level rises; pts: of each one in 1/ticks s (default: one every 1/rate).

    size: None writes no video; sound: (begin, seconds); cover: (height, width) of one.
    """
    path, base = Path(path), Fraction(1, ticks) if ticks else 1 / Fraction(rate)
    shapes = [shape for shape in (size, *tracks) if shape]
    with av.open(str(path), "w", format=format, options=out_options or {}) as out:
        streams = []
        for height, width in shapes:
            more = {"g": str(gop), "sc_threshold": "0", "threads": "1", **(options or {})}
            if codec in ("libx264", "mpeg4", "mpeg2video"):
                more["bf"] = str(bf)
            if codec == "libx264":
                more |= {"preset": "veryfast"}
            stream = out.add_stream(codec, rate=Fraction(rate), options=more)
            stream.height, stream.width = height, width
            plain = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.pix_fmt = pix_fmt or plain
            stream.codec_context.time_base = base
            if aspect:
                stream.codec_context.sample_aspect_ratio = aspect
            streams.append(stream)
        voice = None if sound is None else out.add_stream("aac", rate=8000)
        picture = None
        if cover is not None:
            picture = out.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = *cover, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        held = []
        if picture is not None:
            held += _coded(picture, [0], Fraction(1, 1), cover, "yuvj420p")
        for stream, shape in zip(streams, shapes, strict=True):
            stamps = range(frames) if pts is None else pts
            held += _coded(stream, stamps, base, shape, stream.pix_fmt)
        if voice is not None and sound is not None:
            begin, seconds = sound
            for k in range(int(8000 * seconds / 1024)):
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                tone.sample_rate, tone.time_base = 8000, Fraction(1, 8000)
                tone.pts = int(8000 * begin) + 1024 * k
                held += voice.encode(tone)
            held += voice.encode(None)
        held.sort(key=lambda p: float((p.dts or 0) * p.time_base))
        for packet in held:
            out.mux(packet)
    return path


def _coded(stream, stamps, base, size, pix_fmt):
    packets = []
    for k, stamp in enumerate(stamps):
        image = np.full((*size, 3), 8 * k % 250, np.uint8)
        image[: size[0] // 2, : size[1] // 2] = 255  # a corner that tells how it lies
        frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)
        frame.pts, frame.time_base = stamp, base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def remuxed(path, source, change, format=None):
    """The packets of `source`, each with `change(number, packet)` applied, but without coding."""
    with av.open(str(source)) as old, av.open(str(path), "w", format=format) as out:
        track = out.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            change(number, packet)
            packet.stream = track
            out.mux(packet)
    return path


def marked(path, a, b, c, d):
    """A display matrix in an MP4's first track (ISO 14496-12 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for place, value in ((0, a), (4, b), (12, c), (16, d)):
        data[at + place : at + place + 4] = (0x10000 * value).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def odd(name, **options):
    FILES[name] = lambda path: write(path, **options)


for suffix in ("mp4", "mov", "mkv", "ts", "avi", "flv", "nut", "3gp", "m4v"):
    odd(f"b_frames.{suffix}", bf=3, **({"format": "mp4"} if suffix == "m4v" else {}))
odd("mpeg4.avi", codec="mpeg4", bf=2)
odd("mpeg4.mp4", codec="mpeg4", bf=2)
odd("mpeg2.mpg", codec="mpeg2video", rate=25, bf=2)
odd("mpeg2.ts", codec="mpeg2video", rate=25, bf=2)
odd("mpeg2.vob", codec="mpeg2video", rate=25, bf=2, format="vob")
odd("vp8.webm", codec="libvpx")
odd("vp8.ivf", codec="libvpx")
odd("jpeg.avi", codec="mjpeg")
odd("jpeg.mov", codec="mjpeg")
odd("windows.wmv", codec="msmpeg4", format="asf")
odd("plain.mxf", codec="mpeg2video", rate=25)
odd("fast_start.mp4", bf=2, out_options={"movflags": "faststart"})
odd("fragments.mp4", bf=2, out_options={"movflags": "frag_keyframe+empty_moov"})
odd("one_fragment.mp4", out_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
odd("no_edit_list.mp4", bf=3, out_options={"use_editlist": "0"})
odd("ntsc.mp4", rate=Fraction(30000, 1001), bf=2)
odd("ntsc.mkv", rate=Fraction(24000, 1001))
odd("slow.mkv", rate=Fraction(1, 2), frames=6)
odd("fast.mp4", rate=240, frames=40)
IRREGULAR = [0, 40, 100, 101, 500, 1700, 1740, 1780, 3000, 3001, 3002, 9000]
odd("irregular.mkv", pts=IRREGULAR, ticks=1000, rate=25)
odd("irregular.mp4", pts=IRREGULAR, ticks=1000, rate=25)
odd("irregular.flv", pts=IRREGULAR, ticks=1000, rate=25)
odd("irregular.nut", pts=IRREGULAR, ticks=1000, rate=25)
odd("a_pause.mkv", pts=[*range(10), *range(310, 320)], ticks=10)
odd("a_pause.mp4", pts=[*range(10), *range(310, 320)], ticks=10)
odd("a_short_pause.ts", pts=[*range(10), *range(60, 70)], ticks=10)
odd("starts_late.ts", pts=range(10000, 10020), ticks=10)
odd("starts_late.mkv", pts=range(50, 70), ticks=10)
odd("starts_late.mp4", pts=range(50, 70), ticks=10)
odd("starts_before_zero.mp4", pts=range(-8, 12), ticks=10)
odd("starts_before_zero.mkv", pts=range(-8, 12), ticks=10)
odd("clock_wraps.ts", pts=range(954430, 954450), ticks=10)
odd("sound_first.mp4", sound=(0, 3), pts=range(10, 30), ticks=10)
odd("sound_first.mkv", sound=(0, 3), pts=range(10, 30), ticks=10)
odd("sound_first.ts", sound=(0, 3), pts=range(10, 30), ticks=10)
odd("sound_longer.mp4", sound=(0, 6))
odd("sound_later.mkv", sound=(1, 2))
odd("two_tracks.mp4", tracks=[(96, 128)])
odd("two_tracks.mkv", tracks=[(96, 128)])
odd("cover.mp4", sound=(0, 2), cover=(300, 300))
odd("odd_size.mkv", size=(47, 63), pix_fmt="yuv444p")
odd("wide_pixels.mp4", aspect=Fraction(64, 45), size=(144, 180))
odd("wide_pixels.mkv", aspect=Fraction(64, 45), size=(144, 180))
odd("wide_pixels.ts", aspect=Fraction(64, 45), size=(144, 180))
odd("narrow_pixels.mp4", aspect=Fraction(8, 9))
odd("narrow_pixels.mpg", aspect=Fraction(8, 9), codec="mpeg2video", rate=25)
odd("fields.mp4", options={"flags": "+ildct+ilme", "x264-params": "tff=1"}, bf=2)
odd("fields.ts", options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
odd("fields.mpg", codec="mpeg2video", rate=25, options={"flags": "+ildct+ilme"}, bf=2)
odd("one_picture.mp4", frames=1)
odd("two_pictures.avi", frames=2, bf=1)
MATRICES = {
    "quarter": (0, 1, -1, 0), "half": (-1, 0, 0, -1), "three_quarters": (0, -1, 1, 0),
    "left_right": (-1, 0, 0, 1), "up_down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0), "transverse": (0, -1, -1, 0),
}  # fmt: skip
for turn, matrix in MATRICES.items():
    FILES[f"{turn}.mp4"] = lambda path, m=matrix: marked(write(path), *m)
FILES["quarter_wide_pixels.mp4"] = lambda path: marked(
    write(path, aspect=Fraction(64, 45), size=(144, 180)), *MATRICES["quarter"]
)


def cut_by_edit_list(path):
    """The first 7 pictures are in the file, and not shown: its edit list begins after them."""
    whole = write(path.with_suffix(".whole.mp4"), gop=50)

    def earlier(number, packet):
        base = packet.time_base
        packet.pts -= int(Fraction(7, 10) / base)
        packet.dts -= int(Fraction(7, 10) / base)

    return remuxed(path, whole, earlier)


FILES["edit_list.mp4"] = cut_by_edit_list


def asked(path):
    """What `ffmpeg` and `ffprobe` say of a file: the stream that is taken, its frames and shape."""
    taken = subprocess.run(
        ["ffmpeg", "-v", "info", "-i", path, "-an", "-sn", "-dn", "-frames:v", "1",
         "-f", "null", "-"], capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    found = re.search(r"Stream #0:(\d+).* -> #0:0 ", taken)
    assert found is not None, taken
    number = found[1]
    upright = re.search(r"Stream #0:0.*?: Video: wrapped_avframe.*?, (\d+)x(\d+)", taken, re.S)
    assert upright is not None, taken
    size = int(upright[2]), int(upright[1])
    picture = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-f", "rawvideo",
         "-pix_fmt", "gray", "-"], capture_output=True, check=True,
    ).stdout  # fmt: skip
    text = subprocess.run(
        ["ffprobe", "-v", "error", "-of", "json", "-select_streams", number, "-show_entries",
         "format=start_time:stream=sample_aspect_ratio:frame=best_effort_timestamp_time", path],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    said = json.loads(text)
    times = [f.get("best_effort_timestamp_time") for f in said["frames"]]
    return {
        "times": [None if t is None else round(float(t), 6) for t in times],
        "start": round(float(said["format"].get("start_time", 0)), 6),
        "size": size,  # (height, width) as ffmpeg gives it: turned, its pixels as they are stored
        "aspect": said["streams"][0].get("sample_aspect_ratio", "1:1"),
        "bright": bright(np.frombuffer(picture, np.uint8).reshape(size)),
    }


def bright(image):
    """Which quarter of a picture is the brightest: [lower, right]. With the size it tells all
    eight ways of lying apart."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    parts = [image[r * height :][:height, c * width :][:, :width] for r in (0, 1) for c in (0, 1)]
    best = int(np.argmax([part.mean() for part in parts]))
    return [best // 2, best % 2]


def main():
    with tempfile.TemporaryDirectory() as folder:
        table = {}
        for name, make in FILES.items():
            try:
                table[name] = asked(make(Path(folder, name)))
            except Exception as error:
                print(f"{name}: {error!r}", file=sys.stderr)
    rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in table.items()]
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{len(table)} files")


if __name__ == "__main__":
    main()
