"""Listening: utterances are the same however the sound is cut, and the words are what was said."""

import io
import json
import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from streamzoo.streaming.captions import Captions, clock, cues
from streamzoo.streaming.cli import main
from streamzoo.streaming.listening import BLOCK, RATE, Cutting, Listener, Utterance
from streamzoo.streaming.sources import sound as sound_module
from streamzoo.streaming.sources.base import SourceError
from streamzoo.streaming.sources.sound import sound_of
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.packages import installed
from streamzoo.zoo.registry import model_card
from streamzoo.zoo.speech.saying import Word

from ..zoo.small_speech import AUDIO
from .small_listener import small_file
from .spoken import Counting, Likely, spoken


def write(path, samples, rate=RATE, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels), file.setsampwidth(2), file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setattr("streamzoo.streaming.listening.load", lambda name: (Likely(), {}))
    return lambda recognise=lambda a: f"{len(a)}", **options: Listener(
        recognise, Cutting(**options)
    )


def all_of(listener, sound, size):
    said = [u for i in range(0, len(sound), size) for u in listener.push(sound[i : i + size])]
    return said + list(listener.flush())


SOUND = spoken((1, 0), (1.5, 0.9), (0.3, 0.1), (1, 0.8), (1, 0), (0.1, 0.9), (1, 0), (0.7, 0.6))


def test_utterances_are_where_somebody_speaks(listener):
    said = all_of(listener(every=0), SOUND, 4000)
    assert [u.final for u in said] == [True, True]  # a click of 0.1 s is no utterance
    (first, second) = said
    assert first.start == pytest.approx(1.0, abs=0.04) and first.end == pytest.approx(3.8, abs=0.04)
    assert second.start == pytest.approx(5.9, abs=0.04)
    # with the sound before it and the silence that ended it
    assert int(first.text) / RATE == pytest.approx(0.3 + 2.8 + 0.5, abs=0.08)


@pytest.mark.parametrize("size", [1, 511, 512, 5000, len(SOUND)])
def test_any_split_gives_the_same(listener, size):
    sound = SOUND[: 3 * RATE] if size == 1 else SOUND
    facts = lambda said: [(u.start, u.end, u.text, u.final) for u in said]
    want = facts(all_of(listener(), sound, 1600))
    assert facts(all_of(listener(), sound, size)) == want and len(want) > 3


def test_provisional_texts_come_while_somebody_speaks_and_never_after(listener):
    said = all_of(listener(every=0.5), spoken((0.5, 0), (3, 0.9), (1, 0)), 800)
    assert [u.final for u in said] == [False] * (len(said) - 1) + [True]
    assert 5 <= len(said) - 1 <= 6
    assert all(a.heard < b.heard for a, b in zip(said, said[1:], strict=False))


def test_speech_without_a_pause_is_cut_at_its_quietest_and_nothing_is_lost(listener):
    heard = []

    def recognise(sound):
        heard.append(sound)
        return "x"

    sound = spoken((3.2, 0.9), (0.064, 0.4), (6, 0.9))
    said = all_of(listener(recognise, longest=4, every=0), sound, 4096)
    assert len(said) >= 3 and said[0].end == pytest.approx(3.2, abs=0.1)
    joined = np.concatenate(heard)[: len(sound)]
    np.testing.assert_array_equal(joined, sound)
    assert max(len(s) for s in heard) <= 4 * RATE + BLOCK


def test_memory_is_bounded_by_the_longest_utterance(listener):
    hears = listener(longest=5, every=0)
    for part in (spoken((60, 0)), spoken((60, 0.9))):
        list(hears.push(part))
        assert len(hears._sound) == len(hears._speech) <= 5 * RATE / BLOCK + 1


@pytest.mark.parametrize(
    "options", [{"end": 0.6}, {"longest": 40}, {"silence": -1}, {"begin": 1.0}, {"every": 99}]
)
def test_cutting_out_of_range(options):
    with pytest.raises(ValueError, match="|".join(options)):
        Cutting(**options)


def test_sound_of_another_kind_is_refused(listener):
    with pytest.raises(ValueError, match="int16"):
        list(listener().push(np.zeros(9, np.int16)))


def test_words_come_while_somebody_speaks_and_stay(listener, monkeypatch):
    monkeypatch.setattr("streamzoo.streaming.listening.load", lambda name: (Likely(), {}))
    said = all_of(Listener(begin=Counting), SOUND, 777)
    # the click between them was a noise, but words were said of it, and they stay
    assert {u.number for u in said if u.final} == {0, 1, 2}
    words = []
    for u in said:
        kept = list(u.words)
        if u.number == 0:
            assert kept[: len(words)] == words and u.text.startswith(" ".join(w.text for w in kept))
            assert len(kept) - len(words) == u.fresh == len(u.late())
            words = kept
    # in seconds of the stream; where a word goes on into the pause, to the end of speech
    assert words[0].start == pytest.approx(0.7, abs=0.02)
    assert words[15].end == pytest.approx(3.8, abs=0.04)
    assert words[15].end < words[15].start + 0.15
    assert sum(u.fresh for u in said if u.number == 0) == len(words) > 10
    final = [u for u in said if u.final]
    assert all(u.maybe == "" for u in final) and any(u.maybe for u in said)
    for size in (512, len(SOUND)):
        facts = lambda found: [(u.words, u.maybe, u.final, u.heard) for u in found]
        assert facts(all_of(Listener(begin=Counting), SOUND, size)) == facts(said)


def test_what_hears_as_it_is_said_is_cut_at_a_pause_and_loses_nothing(listener):
    sound = spoken((3.2, 0.9), (0.064, 0.1), (6, 0.9))
    ends = [
        u.end
        for u in all_of(Listener(cutting=Cutting(longest=4), begin=Counting), sound, 900)
        if u.final
    ]
    assert ends[0] == pytest.approx(3.2, abs=0.04)  # at the pause, though it was too short to end
    assert ends[1] - ends[0] == pytest.approx(4, abs=0.1)  # none: at the longest
    with pytest.raises(ValueError, match="either recognise or begin"):
        Listener()


# --- sources ---------------------------------------------------------------------------------


def test_files_are_mixed_and_resampled_and_it_is_said_once(tmp_path):
    t = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 440 * t)
    stereo = np.stack([tone, 0.5 * tone], 1).reshape(-1)
    told = []
    sound = np.concatenate([*sound_of(write(tmp_path / "a.wav", stereo, 48_000, 2), told.append)])
    assert len(sound) == pytest.approx(RATE, abs=32) and len(told) == 1 and "48000 Hz" in told[0]
    spectrum = np.abs(np.fft.rfft(sound))
    assert np.argmax(spectrum) * RATE / len(sound) == pytest.approx(440, abs=2)
    want = 0.75 * np.sin(2 * np.pi * 440 * np.arange(len(sound)) / RATE)
    assert np.abs(sound - want)[200:-200].max() < 0.02


def test_a_pipe_is_16_bit_samples(monkeypatch):
    samples = np.arange(-500, 500, dtype="<i2")

    def piped(data):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data), 7))
        monkeypatch.setattr(sound_module.sys, "stdin", stdin)
        return np.concatenate([*sound_of("-")])

    np.testing.assert_array_equal(piped(samples.tobytes()) * 32768, samples)
    with pytest.raises(SourceError, match="within a sample"):
        piped(samples.tobytes()[:-1])


def test_sound_of_8_bits_a_short_one_and_what_is_no_number(tmp_path):
    samples = np.array([0, 64, 128, 192, 255], np.uint8)
    with wave.open(str(tmp_path / "8.wav"), "wb") as file:
        file.setparams((1, 1, RATE, 0, "NONE", ""))
        file.writeframes(samples.repeat(100).tobytes())
    sound = np.concatenate([*sound_of(tmp_path / "8.wav")])
    np.testing.assert_allclose(sound[50::100], (samples / 128.0) - 1, atol=0.01)
    short = np.concatenate([*sound_of(write(tmp_path / "short.wav", np.ones(160)))])
    assert len(short) == 160 and short.max() <= 1  # 10 ms, as loud as can be
    data = np.array([0.5, np.nan, 2.0], "<f4").repeat(400).tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1,
                       RATE, 4 * RATE, 4, 32, b"data", len(data))  # fmt: skip
    (tmp_path / "nan.wav").write_bytes(head + data)
    with pytest.raises(SourceError, match="no numbers"):
        list(sound_of(tmp_path / "nan.wav"))


def test_a_microphone_is_the_device_that_ffmpeg_has(monkeypatch):
    asked = []

    def opened(text, format=None):
        asked.append((format, text))
        raise OSError(19, "No such device")

    monkeypatch.setattr(sound_module.av, "open", opened)
    monkeypatch.setattr(sound_module.sys, "platform", "linux")
    for has in ({"pulse", "alsa"}, {"alsa"}):
        monkeypatch.setattr(sound_module.av, "formats_available", has)
        with pytest.raises(SourceError, match="^mic: cannot be opened: No such device"):
            list(sound_of("mic"))
    assert asked == [("pulse", "default"), ("alsa", "default")]
    monkeypatch.setattr(sound_module.av, "formats_available", set())
    with pytest.raises(SourceError, match="arecord -q -f S16_LE -r 16000 -c 1"):
        list(sound_of("mic"))


def test_sources_without_sound(tmp_path):
    from .rtsp import make_clip

    with pytest.raises(SourceError, match="has no sound"):
        list(sound_of(make_clip(tmp_path / "mute.mp4", frames=3)))
    with pytest.raises(SourceError, match="cannot be opened"):
        list(sound_of(tmp_path / "nothing.wav"))
    (tmp_path / "text.wav").write_text("no sound at all")
    with pytest.raises(SourceError, match="cannot be opened"):
        list(sound_of(tmp_path / "text.wav"))
    address = "http://user:secret@127.0.0.1:9/a.wav"
    with pytest.raises(SourceError) as told:
        list(sound_of(address))
    assert "secret" not in str(told.value)


# --- captions --------------------------------------------------------------------------------

SAID = [
    Utterance(0.5, 1.25, "Yes --> no", True, 1.5, 100.0),
    Utterance(3661, 3662.5, "b", True, 0, 0),
]


def test_captions(tmp_path):
    for kind in ("srt", "vtt", "jsonl"):
        with Captions(tmp_path / f"a.{kind}") as captions:
            for said in SAID:
                captions.write(said)
    srt = (tmp_path / "a.srt").read_text()
    assert srt.startswith("1\n00:00:00,500 --> 00:00:01,250\nYes -> no\n\n2\n01:01:01,000 --> ")
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.250\n")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[0] == {"start": 0.5, "end": 1.25, "text": "Yes --> no", "latency": 0.35}
    assert clock(59.9996) == "00:01:00.000"
    words = tuple(Word(f"{i}" * 30, i, i + 0.5, i + 1.0) for i in range(5))
    said = Utterance(0, 5, "", True, 6, 0, words)
    assert [(a, b) for a, b, _ in cues(said)] == [(0, 1.5), (2, 3.5), (4, 4.5)]
    assert " ".join(text for *_, text in cues(said)) == " ".join(w.text for w in words)
    inside = [text for *_, text in cues(said, inside=True)]
    assert inside[0] == f"{words[0].text} <00:00:01.000>{words[1].text}"
    with Captions(tmp_path / "words.jsonl") as captions:
        captions.write(said)
    row = json.loads((tmp_path / "words.jsonl").read_text())
    assert row["words"][1] == {"text": "1" * 30, "start": 1, "end": 1.5, "final": 2.0}
    with pytest.raises(ValueError, match=r"\.srt, \.vtt, \.jsonl"):
        Captions(tmp_path / "a.txt")
    with pytest.raises(FileExistsError):
        Captions(tmp_path / "a.srt")


# --- the command -----------------------------------------------------------------------------


def test_wrong_sources_and_models_are_one_line(tmp_path, capsys):
    quiet = write(tmp_path / "quiet.wav", np.zeros(3 * RATE))
    (tmp_path / "there.srt").write_text("mine")
    new = tmp_path / "new.srt"
    for words, says in (
        ([tmp_path / "no.wav"], "cannot be opened"),
        ([quiet, "--longest", "99"], "--longest or --every: longest 99"),
        ([quiet, "--out", tmp_path / "there.srt"], "--overwrite replaces it"),
        ([quiet, "--out", tmp_path / "a.doc"], "captions are"),
        ([quiet, "--out", tmp_path / "no/a.srt"], "no such folder"),
        ([quiet, "--out", new, "--model", "yolox-nano/coco"], "does not write what is said"),
        ([write(tmp_path / "empty.wav", np.zeros(0))], "ends before its first sample"),
    ):
        assert main(["listen", *map(str, words)]) != 0
        err = capsys.readouterr().err
        assert says in err and "Traceback" not in err
    assert (tmp_path / "there.srt").read_text() == "mine"
    assert not new.exists()  # the same command with another model is not refused for it


@pytest.mark.slow
def test_a_file_of_streaming_weights_says_words_while_they_are_spoken(listener, tmp_path, capsys):
    weights = small_file(tmp_path)
    clip = write(tmp_path / "a.wav", np.concatenate([AUDIO, np.zeros(RATE), AUDIO[::-1]]))
    out = tmp_path / "a.jsonl"
    words = ["listen", clip, "--model", weights, "--out", out, "--longest", "2", "--every", "0.2"]
    assert main([str(w) for w in words]) == 0
    told = capsys.readouterr()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    lines = [line.split("  ", 1)[1] for line in told.out.splitlines()]
    assert len(rows) > 1 and lines == [row["text"] for row in rows]
    assert all(row["text"] == " ".join(w["text"] for w in row["words"]) for row in rows)
    early = [w["final"] < row["end"] for row in rows for w in row["words"]]
    assert any(early)  # words were final before their utterance had ended
    assert "end of a word to final" in told.err and "real-time factor" in told.err


def test_a_source_that_breaks_off_loses_no_word(listener, tmp_path, monkeypatch, capsys):
    def breaks(source, say=print):
        yield AUDIO
        raise SourceError("mic: cannot be read: No such device")

    monkeypatch.setattr(sound_module, "sound_of", breaks)
    out = tmp_path / "a.jsonl"
    words = ["listen", "mic", "--model", small_file(tmp_path), "--out", out, "--longest", "2"]
    assert main([str(w) for w in words]) != 0
    told = capsys.readouterr()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows and rows[-1]["text"] in told.out and "real-time factor" in told.err
    assert told.err.rstrip().endswith("mic: cannot be read: No such device")


@pytest.mark.slow
def test_real_speech_is_written_down(tmp_path, capsys):
    """A recording that comes with the weights: Beckett's best known lines."""
    try:
        file = installed(model_card("moonshine-base/en").source)
    except WeightsError as error:
        pytest.skip(str(error))
    clip = Path(file).parents[2] / "test-data/beckett.wav"
    assert main(["listen", str(clip), "--out", str(tmp_path / "b.jsonl"), "--longest", "3"]) == 0
    told = capsys.readouterr()
    words = "".join(c for c in told.out.lower() if c.isalpha() or c in " \n").split()
    want = "ever tried ever failed no matter try again fail again fail better"
    assert " ".join(words) == want
    assert "; utterances: 6, words: 12" in told.err and "p95" in told.err
    rows = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(
        a["end"] < b["start"] for a, b in zip(rows, rows[1:], strict=False)
    )
