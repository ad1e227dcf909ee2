"""What is tested on is not trained on, and text that may be misread is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.errors import ConfigError
from stream_server.training.data import (
    Clip,
    HeldOut,
    load_sets,
    plain_text,
    read_manifest,
    split,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Hello, World!", "hello world"),
        ("  well -- then ;  ", "well then"),
        ("Don't you?", "don't you"),
        ("Don\u2019t you?", "don't you"),
        ("'Tis the dogs' day, 'she said'", "tis the dogs day she said"),
        ("Mr. and Mrs. Bo & Dr. Who", "mister and missus bo and doctor who"),
        ("state-of-the-art", "state of the art"),
        ("To-day, or to morrow; into days", "today or tomorrow into days"),
        ("all in\ntwo\tlines", "all in two lines"),
        ("route 66", None),
        ("the 2nd", None),
        ("\u0665 is five", None),
        ("", None),
        ("?!", None),
        ("'", None),
    ],
)
def test_text_becomes_plain(text: str, plain: str | None) -> None:
    assert plain_text(text) == plain


@given(st.text(max_size=40))
def test_plain_text_is_letters_apostrophes_and_single_spaces(text: str) -> None:
    plain = plain_text(text)
    if plain is not None:
        assert plain
        assert set(plain) <= set("abcdefghijklmnopqrstuvwxyz' ")
        assert plain.split(" ") == plain.split()
        assert plain_text(plain) == plain


@pytest.mark.parametrize("text", ["the na\u00efve caf\u00e9", "\u00fcber"])
def test_words_are_not_cut_at_their_accents(text: str) -> None:
    assert plain_text(text) in (None, "the naive cafe", "uber")


def entry(audio: str, text: str, speaker: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "audio": audio,
        "text": text,
        "language": "en",
        "speaker": speaker,
        "duration": 1.5,
        **changes,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the manifest of a set."""

    def manifest(name: str, *entries: dict[str, Any]) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        lines = "".join(json.dumps(each) + "\n" for each in entries)
        (tmp_path / name / "manifest.jsonl").write_text(lines, encoding="utf-8")
        return tmp_path / name

    return manifest


def test_a_manifest_gives_what_can_be_used_in_the_order_of_names(
    write: Callable[..., Path],
) -> None:
    folder = write(
        "birds",
        entry("b.opus", "Second.", "ann", duration=2),
        entry("a.opus", "First!"),
        entry("c.opus", "Dritter", language="de"),
        entry("d.opus", ""),
        entry("e.opus", None),  # type: ignore[arg-type]
        entry("f.opus", "number 5"),
    )
    assert read_manifest(folder) == [
        Clip(folder / "a.opus", "first", "birds", 1.5, "birds"),
        Clip(folder / "b.opus", "second", "ann", 2.0, "birds"),
    ]


def test_a_manifest_elsewhere_has_stretches_of_the_audio(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    folder = write("birds", entry("a.opus", None))  # type: ignore[arg-type]
    lines = [
        entry("a.opus", "Second.", "ann", start=16_000, end=48_000, duration=2),
        entry("a.opus", "First.", "ann", start=100, end=16_000, duration=1),
        entry("b.opus", "Third.", "ann"),
    ]
    read = tmp_path / "read.jsonl"
    read.write_text("".join(json.dumps(each) + "\n" for each in lines))
    found = [(clip.audio, clip.text, clip.start, clip.end) for clip in read_manifest(folder, read)]
    assert found == [
        (folder / "a.opus", "first", 100, 16_000),
        (folder / "a.opus", "second", 16_000, 48_000),
        (folder / "b.opus", "third", 0, None),
    ]
    assert read_manifest(folder) == []
    train, _ = load_sets(tmp_path, ["birds"], {}, {"birds": read})
    assert [clip.set for clip in train] == ["birds"] * 3


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError"),
        ("[]", "TypeError"),
        (json.dumps(entry("a.opus", "x", start=5, end=5)), "samples 5 to 5"),
        (json.dumps(entry("a.opus", "x", start=-1)), "samples -1"),
        (json.dumps(entry("a.opus", "x", duration="long")), "ValueError"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    good = json.dumps(entry("a.opus", "x"))
    (tmp_path / "manifest.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ConfigError, match=rf"manifest\.jsonl:2.*{wrong}"):
        read_manifest(tmp_path)


def test_a_set_without_a_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a JSON-lines file that is there"):
        read_manifest(tmp_path)


CLIPS = st.lists(
    st.builds(
        Clip,
        audio=st.integers(0, 99).map(lambda number: Path(f"set/{number:02}.opus")),
        text=st.sampled_from(["one", "two", "three"]),
        speaker=st.sampled_from("abcdef"),
        duration=st.just(1.0),
        set=st.just("set"),
    ),
    unique_by=lambda clip: clip.audio,
    max_size=15,
).map(lambda clips: sorted(clips, key=lambda clip: clip.audio.name))
RULES = st.builds(
    HeldOut,
    speakers=st.lists(st.sampled_from("abcxyz"), max_size=3).map(tuple),
    every_nth_speaker=st.integers(0, 4),
    last_clips=st.integers(0, 20),
    every=st.booleans(),
)


@given(CLIPS, RULES)
def test_a_split_leaks_nothing_and_loses_nothing(clips: list[Clip], rule: HeldOut) -> None:
    train, test = split(clips, rule)
    assert not {clip.audio for clip in train} & {clip.audio for clip in test}
    assert sorted(map(id, train + test)) == sorted(map(id, clips))
    assert not {clip.speaker for clip in train} & set(rule.speakers)
    assert not {id(clip) for clip in train} & {id(c) for c in clips[::-1][: rule.last_clips]}
    if rule.every:
        assert not train
    if rule.every_nth_speaker:
        kept = sorted({clip.speaker for clip in clips})[:: rule.every_nth_speaker]
        assert not {clip.speaker for clip in train} & set(kept)
    if rule == HeldOut():
        assert not test


LONG = "this sentence has more than five words"


def test_sentences_that_are_tested_on_are_not_trained_on_in_any_set(
    write: Callable[..., Path],
) -> None:
    root = write(
        "read",
        entry("1.opus", LONG),
        entry("2.opus", "another sentence that is long enough too"),
        entry("3.opus", "yes please"),
        entry("4.opus", LONG.capitalize() + "."),
        entry("5.opus", "thank you"),
    ).parent
    write("said", entry("1.opus", LONG), entry("2.opus", "thank you"))
    rules = {"read": HeldOut(last_clips=2)}
    for names in (["read", "said"], ["said", "read"]):
        train, tests = load_sets(root, names, rules)
        assert [clip.text for clip in tests["read"]] == [LONG, "thank you"]
        assert tests["said"] == []
        assert LONG not in {clip.text for clip in train}
        assert {clip.set for clip in train if clip.text == "thank you"} == {"said"}
        assert len(train) == 3


def test_sentences_of_held_out_speakers_may_be_said_by_others(write: Callable[..., Path]) -> None:
    root = write("read", entry("1.opus", LONG, "ann"), entry("2.opus", LONG, "bob")).parent
    train, tests = load_sets(root, ["read"], {"read": HeldOut(speakers=("bob",))})
    assert [clip.speaker for clip in train] == ["ann"]
    assert [clip.speaker for clip in tests["read"]] == ["bob"]
