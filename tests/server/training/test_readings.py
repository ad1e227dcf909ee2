"""What was read is kept where a network bears it out, and cut off where it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stream_server.training
from stream_server.errors import ConfigError
from stream_server.recogniser.checkpoint import EMBEDDED, load_model
from stream_server.recogniser.draft import Logs
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.data import plain_text, read_manifest
from stream_server.training.loop import Trainer
from stream_server.training.pack import RATE, Packed, read_recording
from stream_server.training.readings import (
    UNREAD,
    Trust,
    Verifier,
    Word,
    align_words,
    manifest_line,
    mark,
    read_entries,
    read_readings,
    stretches,
)

RECIPES = Path(stream_server.training.__file__).parent / "recipes"
SPEECH = Path(__file__).parents[4] / "shared" / "speech" / "librispeech_untranscribed"
needs_speech = pytest.mark.skipif(
    not SPEECH.is_dir(), reason=f"{SPEECH} is not there: recordings are not in the repository"
)
BLANK, SURE, UNLIKELY = 0, -0.01, -12.0


def hear(tokenizer: Tokenizer, said: list[str], gap: int = 3) -> Logs:
    """Log-probabilities of a network that is sure of some words: a frame a token, then a gap."""
    path = [BLANK] * gap
    for word in said:
        for token in tokenizer.encode(word):
            path += [token, BLANK]
        path += [BLANK] * gap
    logs = np.full((len(path), 32), UNLIKELY, np.float32)
    logs[np.arange(len(path)), path] = SURE
    return logs


def doubtful(words: list[Word]) -> list[str]:
    return [word.text for word in words if word.doubt > Trust().doubt]


def test_what_was_said_costs_nothing(tokenizer: Tokenizer) -> None:
    said = ["one", "seven", "two"]
    words = align_words(hear(tokenizer, said), said, tokenizer)
    assert [word.text for word in words] == said
    assert all(word.doubt < 0.1 for word in words)
    assert all(a.end <= b.start for a, b in zip(words, words[1:], strict=False))
    assert words[0].start == 3


@pytest.mark.parametrize(
    ("read", "doubted"),
    [
        (["one", "four", "two"], {"four"}),  # another word
        (["one", "seven", "four", "two"], {"four"}),  # one too many
    ],
)
def test_what_was_not_said_is_in_doubt(
    tokenizer: Tokenizer, read: list[str], doubted: set[str]
) -> None:
    words = align_words(hear(tokenizer, ["one", "seven", "two"]), read, tokenizer)
    found = set(doubtful(words))
    assert found
    assert found <= doubted


def test_the_words_beside_one_that_was_left_out_answer_for_it(tokenizer: Tokenizer) -> None:
    words = align_words(hear(tokenizer, ["one", "seven", "two"]), ["one", "two"], tokenizer)
    assert sum(word.doubt for word in words) > Trust().doubt


@pytest.mark.parametrize("said", [["one", "seven", "six", "two"], ["one", "two"]])
def test_what_was_not_read_is_of_no_weight(tokenizer: Tokenizer, said: list[str]) -> None:
    words = align_words(hear(tokenizer, said), ["one", UNREAD, "two"], tokenizer)
    assert doubtful(words) == [UNREAD]
    assert words[0].start == 3
    last = align_words(hear(tokenizer, said), said, tokenizer)[-1]
    assert (words[2].start, words[2].end) == (last.start, last.end)


def test_more_words_than_frames_are_no_words(tokenizer: Tokenizer) -> None:
    assert align_words(hear(tokenizer, ["one"]), ["seven"] * 30, tokenizer) == []


def aligned(text: str, seconds: float = 1.0) -> list[Word]:
    """Words of a second each, ``~`` and words in capitals in doubt; a frame is 0.1 s."""
    frames = round(seconds * 10)
    return [
        Word(
            word.lower(),
            place * frames + 2,
            (place + 1) * frames - 2,
            np.inf if word == UNREAD else 20.0 if word.isupper() else 0.5,
        )
        for place, word in enumerate(text.split())
    ]


def kept(words: list[Word], trust: Trust, seconds: float = 1.0) -> list[tuple[float, float, str]]:
    pcm = np.ones(round(len(words) * seconds * RATE), np.int16)
    for edge in range(1, len(words)):  # quiet between words
        place = round(edge * seconds * RATE)
        pcm[place - RATE // 100 : place + RATE // 100] = 0
    found = stretches(words, pcm, RATE // 10, trust)
    return [(round(s.start / RATE), round(s.end / RATE), s.text) for s in found]


def test_a_clip_is_cut_where_it_is_in_doubt() -> None:
    words = aligned("a b c ~ d e f X g h i")
    assert kept(words, Trust()) == [(0, 3, "a b c"), (4, 7, "d e f"), (8, 11, "g h i")]


def test_short_stretches_are_left_out() -> None:
    assert kept(aligned("a ~ b c X d"), Trust(shortest=1.5)) == [(2, 4, "b c")]
    assert kept(aligned("a ~ b"), Trust(shortest=1.5)) == []
    assert kept(aligned("~"), Trust()) == []
    assert kept([], Trust()) == []


def test_stretches_of_which_every_word_is_a_little_in_doubt_are_left_out() -> None:
    words = [replace(word, doubt=3.0) for word in aligned("a b c")]
    assert kept(words, Trust(doubt=8.0, mean=2.9)) == []
    assert len(kept(words, Trust(doubt=8.0, mean=3.1))) == 1


def test_long_stretches_are_divided_at_their_longest_pause() -> None:
    words = aligned("a b c d e f g h")
    words[4] = replace(words[4], end=words[4].end - 1)
    words[5] = replace(words[5], start=words[5].start + 1)
    assert kept(words, Trust(longest=6.0)) == [(0, 5, "a b c d e"), (5, 8, "f g h")]
    divided = kept(words, Trust(longest=3.0))
    assert " ".join(text for *_, text in divided) == "a b c d e f g h"
    assert all(2 <= end - start <= 3 for start, end, _ in divided)


def test_a_word_that_is_longer_than_a_stretch_may_be_is_left_out() -> None:
    assert kept(aligned("a", 9.0), Trust(longest=6.0), 9.0) == []


def test_words_in_doubt_are_shown() -> None:
    assert mark(aligned("a X ~"), Trust()) == "a [x 20.0] ~"


def test_readings_are_a_line_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "readings.txt"
    path.write_text("1-2-3 one ~ two\n4-5-6 ~\n")
    assert read_readings(path) == {"1-2-3": ["one", "~", "two"], "4-5-6": ["~"]}
    path.write_text("1-2-3 one\n1-2-3 two\n")
    with pytest.raises(ConfigError, match="each clip once"):
        read_readings(path)
    with pytest.raises(ConfigError, match="a file that is there"):
        read_readings(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"with its manifest\.jsonl"):
        read_entries(tmp_path)


def test_what_is_kept_can_be_read_as_a_manifest(
    tmp_path: Path, trainer: Trainer, tokenizer: Tokenizer, clips: list[Packed]
) -> None:
    trust = Trust(doubt=1e6, mean=1e6, shortest=0.2, longest=9.0)  # of a network that knows nothing
    verifier = Verifier(trainer.model, tokenizer, trust)
    pcm = clips[10].pcm
    words = verifier.words(pcm, ["one", "two", UNREAD])
    (stretch,) = verifier.stretches(pcm, words)
    assert stretch.text == "one two"
    assert 0 <= stretch.start < stretch.end <= len(pcm)
    entry: dict[str, object] = {"audio": "a.wav", "text": None, "language": "en", "speaker": "ann"}
    (tmp_path / "read.jsonl").write_text(manifest_line(entry, stretch))
    (clip,) = read_manifest(tmp_path / "set", tmp_path / "read.jsonl")
    assert (clip.audio, clip.text) == (tmp_path / "set" / "a.wav", "one two")
    assert (clip.start, clip.end) == (stretch.start, stretch.end)
    assert clip.duration == pytest.approx((stretch.end - stretch.start) / RATE, abs=1e-3)


def test_the_manifest_of_the_tree_is_of_its_readings() -> None:
    readings = read_readings(RECIPES / "librispeech_readings.txt")
    lines = (RECIPES / "librispeech_read.jsonl").read_text().splitlines()
    ends: dict[str, int] = {}
    for entry in map(json.loads, lines):
        name, trust = Path(entry["audio"]).stem, Trust()
        assert f" {entry['text']} " in f" {' '.join(readings[name])} "
        assert plain_text(entry["text"]) == entry["text"]
        assert entry["speaker"] == name.split("-")[0]
        assert trust.shortest <= entry["duration"] <= trust.longest
        assert entry["start"] >= ends.get(name, 0)
        ends[name] = entry["end"]


@pytest.mark.speech
@needs_speech
def test_the_manifest_of_the_tree_lies_within_its_recordings() -> None:
    clips = read_manifest(SPEECH, RECIPES / "librispeech_read.jsonl")
    assert len({clip.speaker for clip in clips}) > 80
    for clip in clips[::10]:
        assert clip.end is not None
        assert clip.end <= len(read_recording(clip.audio))


@pytest.mark.speech
@pytest.mark.model
@needs_speech
def test_a_true_reading_is_kept_and_a_wrong_one_is_not() -> None:
    pcm = read_recording(SPEECH / "730-358-0000.opus")
    true = read_readings(RECIPES / "librispeech_readings.txt")["730-358-0000"]
    verifier = Verifier(*load_model(EMBEDDED), Trust())
    (stretch,) = verifier.stretches(pcm, verifier.words(pcm, true))
    assert stretch.text == " ".join(true)
    wrong = [*true[:6], "pleasure", *true[7:]]
    assert doubtful(verifier.words(pcm, wrong)) == ["pleasure"]
