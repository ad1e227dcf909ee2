"""Deepgram's own packages, and the services of Pipecat and LiveKit that speak its API."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

RATE = 16_000


@pytest.fixture(scope="module")
def two_turns(tmp_path_factory, voice) -> Path:
    """Two bursts of something like speech a second apart, and a pause, as PCM at 16 kHz."""
    path = Path(tmp_path_factory.mktemp("turns") / "turns.pcm")
    path.write_bytes(voice() * 2 + bytes(2 * RATE))
    return path


def of_type(shown: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in shown if each["type"] == kind]


def finals(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in of_type(shown, "Results") if each["is_final"]]


def said(results: list[dict[str, Any]]) -> list[str]:
    texts = [each["channel"]["alternatives"][0]["transcript"] for each in results]
    return [text for text in texts if text]


def check_live_shape(shown: list[dict[str, Any]], audio: bytes) -> None:
    """Check what holds of every live conversation that ends with Finalize and CloseStream."""
    assert shown[-1]["type"] == "Metadata"
    assert shown[-1]["sha256"] == hashlib.sha256(audio).hexdigest()
    assert shown[-1]["duration"] == len(audio) / 2 / RATE
    assert len(said(finals(shown))) == 2
    assert [each["from_finalize"] for each in finals(shown)].count(True) == 1
    window = 0.0
    for each in finals(shown):
        assert each["channel_index"] == [0, 1]
        assert each["start"] == pytest.approx(window, abs=0.002)
        window = each["start"] + each["duration"]
        (alternative,) = each["channel"]["alternatives"]
        assert [w["punctuated_word"] for w in alternative["words"]] == (
            alternative["transcript"].split()
        )
        assert each["metadata"]["request_id"] == shown[-1]["request_id"]


# --- with the fake model: the shape ---------------------------------------------------------------


def test_live(server, run_client, two_turns) -> None:
    shown = run_client("deepgram.txt", "run_deepgram.py", server.url, str(two_turns), "live")
    check_live_shape(shown, two_turns.read_bytes())
    assert len(of_type(shown, "SpeechStarted")) == 2


def test_live_with_the_async_client(server, run_client, two_turns) -> None:
    shown = run_client("deepgram.txt", "run_deepgram.py", server.url, str(two_turns), "live-async")
    check_live_shape(shown, two_turns.read_bytes())
    interims = [each for each in of_type(shown, "Results") if not each["is_final"]]
    assert said(interims)
    ends = [each["channel"]["alternatives"][0]["words"] for each in finals(shown)]
    first, second = (words[-1]["end"] for words in ends if words)
    assert [each["last_word_end"] for each in of_type(shown, "UtteranceEnd")] == [first, second]


def check_turns(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check what holds of every conversation in turns; return the ends of the turns."""
    assert shown[0]["type"] == "Connected"
    assert [each["sequence_id"] for each in shown] == list(range(len(shown)))
    infos = of_type(shown, "TurnInfo")
    ends = [each for each in infos if each["event"] == "EndOfTurn"]
    assert [each["turn_index"] for each in ends] == list(range(len(ends)))
    for index in range(len(ends)):
        own = [each["event"] for each in infos if each["turn_index"] == index]
        assert own[0] == "StartOfTurn"
        assert own[-1] == "EndOfTurn"
        assert own.count("StartOfTurn") == own.count("EndOfTurn") == 1
    return ends


def test_turns(server, run_client, two_turns) -> None:
    shown = run_client("deepgram.txt", "run_deepgram.py", server.url, str(two_turns), "flux")
    ends = check_turns(shown)
    assert len(ends) == 2
    assert all(each["transcript"] and each["trigger"] == "model" for each in ends)
    (configured,) = of_type(shown, "ConfigureSuccess")
    assert configured["thresholds"] == {
        "eot_threshold": 0.7,
        "eager_eot_threshold": 0.6,
        "eot_timeout_ms": 5000,
    }


def test_a_wrong_key_is_refused_before_the_upgrade(running, run_client, two_turns) -> None:
    with running(keys=("sesame",)) as locked:
        arguments = (locked.url, str(two_turns))
        shown = run_client("deepgram.txt", "run_deepgram.py", *arguments, "refused")
        right = run_client("deepgram.txt", "run_deepgram.py", *arguments, "live")
    assert [each["status"] for each in shown] == [401, 401, 401]
    check_live_shape(right, two_turns.read_bytes())


def test_javascript(server, run_client, two_turns) -> None:
    arguments = ("package.json", "run_deepgram.mjs", server.url, str(two_turns))
    *live, closed = run_client(*arguments, "live")
    check_live_shape(live, two_turns.read_bytes())
    assert closed == {"type": "closed", "code": 1000}
    *turns, closed = run_client(*arguments, "flux")
    assert len(check_turns(turns)) == 2
    assert closed == {"type": "closed", "code": 1000}


# --- with the embedded model: the words -----------------------------------------------------------


@pytest.mark.model
def test_the_words_of_people_live(hearing, run_client, clip, native, recording) -> None:
    arguments = ("deepgram.txt", "run_deepgram.py", hearing.url, str(clip(RATE)))
    texts = said(finals(run_client(*arguments, "finals")))
    assert texts == native(hearing, RATE)
    recording.check(texts)
    for mode in ("live", "live-async"):
        recording.check(said(finals(run_client(*arguments, mode))))


@pytest.mark.model
def test_the_words_of_people_in_turns(hearing, run_client, clip, recording) -> None:
    arguments = ("deepgram.txt", "run_deepgram.py", hearing.url, str(clip(RATE)), "flux")
    ends = check_turns(run_client(*arguments))
    assert len(ends) >= len(recording.said)
    recording.check([each["transcript"] for each in ends])


@pytest.mark.model
def test_the_words_of_people_in_files(hearing, run_client, clip, native, recording) -> None:
    arguments = ("deepgram.txt", "run_deepgram.py", hearing.url, str(clip(RATE)), "file")
    (answer,) = run_client(*arguments)
    segments = native(hearing, RATE)
    (channel,) = answer["results"]["channels"]
    (alternative,) = channel["alternatives"]
    assert alternative["transcript"] == " ".join(segments)
    recording.check([alternative["transcript"]])
    words = alternative["words"]
    assert [word["punctuated_word"] for word in words] == alternative["transcript"].split()
    assert all(a["end"] <= b["start"] for a, b in zip(words, words[1:], strict=False))
    assert [each["transcript"] for each in answer["results"]["utterances"]] == segments
    paragraphs = alternative["paragraphs"]["paragraphs"]
    assert [s["text"] for each in paragraphs for s in each["sentences"]] == segments
    data = clip(RATE).read_bytes()
    assert answer["metadata"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert answer["metadata"]["duration"] == pytest.approx(len(data) / 2 / RATE, abs=0.01)


@pytest.mark.model
def test_the_words_of_people_from_javascript(hearing, run_client, clip, recording) -> None:
    script = ("package.json", "run_deepgram.mjs", hearing.url)
    (answer,) = run_client(*script, str(clip("opus")), "file")
    recording.check([answer["results"]["channels"][0]["alternatives"][0]["transcript"]])
    *live, _ = run_client(*script, str(clip(RATE)), "live")
    recording.check(said(finals(live)))
    *turns, _ = run_client(*script, str(clip(RATE)), "flux")
    recording.check([each["transcript"] for each in check_turns(turns)])


def kinds(shown: list[dict[str, Any]], kind: str) -> list[str]:
    return [
        each.get("text") or "".join(each.get("texts", ())) for each in shown if each["kind"] == kind
    ]


@pytest.mark.model
@pytest.mark.parametrize("mode", ["live", "flux"])
def test_pipecat(hearing, run_client, clip, recording, mode: str) -> None:
    shown = run_client("pipecat.txt", "run_pipecat_deepgram.py", hearing.url, str(clip(RATE)), mode)
    assert kinds(shown, "ErrorFrame") == []
    recording.check(kinds(shown, "TranscriptionFrame"))
    assert kinds(shown, "InterimTranscriptionFrame")


@pytest.mark.model
@pytest.mark.parametrize("mode", ["live", "flux", "file"])
def test_livekit(hearing, run_client, clip, native, recording, mode: str) -> None:
    arguments = ("livekit.txt", "run_livekit_deepgram.py", hearing.url, str(clip(RATE)), mode)
    shown = run_client(*arguments)
    heard = kinds(shown, "final_transcript")
    recording.check(heard)
    if mode == "file":
        assert heard == [" ".join(native(hearing, RATE))]
        return
    starts, ends = kinds(shown, "start_of_speech"), kinds(shown, "end_of_speech")
    assert len(starts) == len(ends) >= len(heard), "what is taken for noise has an end as well"
