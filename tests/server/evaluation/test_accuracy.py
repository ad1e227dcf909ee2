"""Scores are those of a hand count, whatever the recogniser."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream_server.evaluation.accuracy import (
    PADDING,
    Example,
    decode,
    evaluate,
    interval,
    normaliser,
    read_audio,
    read_examples,
)
from stream_server.recogniser.fake import FakeRecogniser
from stream_server.recogniser.interface import SAMPLE_RATE, Utterance


def tone(seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def write_manifest(folder: Path, clips: list[tuple[str, str, str, float]]) -> Path:
    lines = []
    for name, text, speaker, seconds in clips:
        soundfile.write(folder / name, tone(seconds), SAMPLE_RATE)
        entry = {"audio": name, "text": text, "speaker": speaker, "language": "en"}
        lines.append(json.dumps({**entry, "duration": seconds}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(
        tmp_path,
        [
            ("a.wav", "one two", "ann", 1.0),
            ("b.wav", "three", "bob", 0.6),
            ("c.wav", "", "bob", 0.5),
        ],
    )


def heard(pcm: np.ndarray) -> str:
    return decode(FakeRecogniser(), [Utterance(pcm, 4)])[0].text.strip()


def test_read_examples_leaves_out_what_has_no_text_or_is_too_long(manifest: Path) -> None:
    assert [example.text for example in read_examples(manifest)] == ["one two", "three"]
    assert [example.text for example in read_examples(manifest, longest=0.8)] == ["three"]


def test_read_examples_by_speaker_and_limit(manifest: Path) -> None:
    assert [example.speaker for example in read_examples(manifest, ["bob"])] == ["bob"]
    assert len(read_examples(manifest, limit=1)) == 1


def test_read_audio_pads_both_sides(manifest: Path) -> None:
    pcm = read_audio(manifest.parent / "a.wav")
    assert len(pcm) == SAMPLE_RATE + 2 * PADDING
    assert not pcm[:PADDING].any()
    assert not pcm[-PADDING:].any()


def test_read_audio_refuses_another_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", tone(0.5), 8000)
    with pytest.raises(ValueError, match="8000 Hz"):
        read_audio(tmp_path / "x.wav")


def test_decode_runs_every_row_to_its_end_and_releases_it() -> None:
    fake = FakeRecogniser()
    together = decode(fake, [Utterance(tone(1.0), 2), Utterance(tone(0.6), 5)])
    assert [hypothesis.is_final for hypothesis in together] == [True, True]
    assert fake.live_rows == 0


def test_a_perfect_and_a_wrong_transcript(tmp_path: Path) -> None:
    right = heard(np.pad(tone(1.0), PADDING))
    words = len(right.split())
    manifest = write_manifest(
        tmp_path, [("a.wav", right, "ann", 1.0), ("b.wav", "zebra " * words, "bob", 1.0)]
    )
    fake = FakeRecogniser()
    examples = read_examples(manifest)
    result, texts = evaluate(fake, examples, 4, spelled=True)
    assert texts == [right, right]
    assert result.utterances == 2
    assert result.wer == pytest.approx(0.5)
    assert result.wer_low <= result.wer <= result.wer_high
    assert result.rtf > 0
    assert evaluate(fake, examples[:1], 4, spelled=True)[0].wer == 0


def test_spelled_keeps_digit_strings_apart() -> None:
    assert normaliser("en", spelled=True)("One, two!").split() == ["one", "two"]
    assert normaliser("en", spelled=False)("colour") == normaliser("en", spelled=False)("color")


def test_interval_is_a_point_where_every_clip_is_alike() -> None:
    assert interval([1, 1, 1], [4, 4, 4]) == (0.25, 0.25)
    low, high = interval([0, 4, 0, 4], [4, 4, 4, 4])
    assert low < 0.5 < high


def test_example_is_plain() -> None:
    assert Example(Path("a"), "b", "en", None, 1.0).speaker is None
