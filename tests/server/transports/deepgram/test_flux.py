"""Turns, one message at a time."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from starlette.datastructures import QueryParams

from stream_protocol import messages as native
from stream_protocol.errors import RemoteProtocolError
from stream_server.recogniser.fake import FAKE_INFO
from stream_server.transports.deepgram.flux import FluxDialect, FluxQuery
from stream_server.transports.deepgram.query import read_audio, read_thresholds
from stream_server.transports.dialect import Call

SECOND = 16_000
MS = 16


class Talk(FluxDialect):
    """A dialect whose replies are read as its client does."""

    def __init__(self, query: str = "") -> None:
        params = QueryParams(f"encoding=linear16&sample_rate=16000&{query}")
        flux = FluxQuery(read_audio(params), read_thresholds(params), (), ("a",))
        super().__init__(flux, Call(), FAKE_INFO)
        self.heard: list[dict[str, Any]] = []
        self.start = self._keep(self.open())

    def says(self, **fields: object) -> Any:
        return self._keep(self.hear(json.dumps(fields)))

    def plays(self, samples: int) -> list[str]:
        before = len(self.heard)
        self._keep(self.hear(bytes(2 * samples)))
        return events(self.heard[before:])

    def told(self, *messages: native.ServerMessage) -> list[str]:
        before = len(self.heard)
        for message in messages:
            self.heard += plain(self.tell(message))
        return events(self.heard[before:])

    def speaks(self, segment: int, start: int, end: int) -> list[str]:
        return self.told(
            native.SpeechStarted(segment, 0, start), native.SpeechEnded(segment, 0, end)
        )

    def _keep(self, heard: Any) -> Any:
        self.heard += plain(heard.replies)
        return heard.session


def plain(replies: Any) -> list[dict[str, Any]]:
    return [json.loads(msgspec.json.encode(reply)) for reply in replies]


def events(shown: list[dict[str, Any]]) -> list[str]:
    return [each.get("event", each["type"]) for each in shown]


def test_it_connects_and_counts() -> None:
    talk = Talk()
    assert talk.start == [native.Start(words=True)]
    talk.says(type="Configure", keyterms=["b"])
    assert [(each["type"], each["sequence_id"]) for each in talk.heard] == [
        ("Connected", 0),
        ("ConfigureSuccess", 1),
    ]


def test_a_turn_from_start_to_end(partial, final) -> None:
    talk = Talk()
    talk.told(native.SpeechStarted(0, 0, 0))
    assert talk.told(partial(0, "", "won")) == ["StartOfTurn"]
    assert talk.told(partial(0, "", "won")) == []
    assert talk.told(partial(0, "One", " two")) == ["Update"]
    talk.told(native.SpeechEnded(0, 0, SECOND))
    assert talk.told(final(0, "One, two.")) == ["EndOfTurn"]
    end = talk.heard[-1]
    assert (end["transcript"], end["turn_index"], end["trigger"]) == ("One, two.", 0, "model")
    assert end["end_of_turn_confidence"] == 0.7
    assert [word["word"] for word in end["words"]] == ["One,", "two."]
    assert all("trigger" not in each for each in talk.heard[:-1])
    talk.speaks(1, 3 * SECOND, 4 * SECOND)
    assert talk.told(final(1, "Three.")) == ["StartOfTurn", "EndOfTurn"]
    assert talk.heard[-1]["turn_index"] == 1
    assert [each["sequence_id"] for each in talk.heard] == list(range(len(talk.heard)))


def test_noise_is_no_turn(final) -> None:
    talk = Talk()
    talk.speaks(0, 0, SECOND)
    assert talk.told(final(0, "")) == []


def test_a_cut_ends_no_turn(final) -> None:
    talk = Talk()
    talk.speaks(0, 0, SECOND)
    talk.speaks(1, SECOND, 2 * SECOND)
    assert talk.told(final(0, "one")) == ["StartOfTurn", "Update"]
    assert talk.told(final(1, "two")) == ["EndOfTurn"]
    assert talk.heard[-1]["transcript"] == "one two"


EAGER = "eager_eot_threshold=0.5&eot_threshold=0.8"


def test_an_eager_end_that_silence_confirms(final) -> None:
    talk = Talk(EAGER)
    assert talk.start[0].endpointing.silence_ms == 300
    talk.plays(SECOND)
    talk.speaks(0, 0, SECOND)
    assert talk.told(final(0, "one")) == ["StartOfTurn", "EagerEndOfTurn"]
    assert talk.heard[-1]["end_of_turn_confidence"] == 0.5
    assert talk.told(native.Ack(SECOND)) == []
    assert talk.plays(800 * MS) == []  # what was handed on may not have been heard yet
    assert talk.plays(50 * MS) == ["EndOfTurn"]
    assert (talk.heard[-1]["transcript"], talk.heard[-1]["trigger"]) == ("one", "model")


def test_a_session_that_lags_is_waited_for(final) -> None:
    talk = Talk(EAGER)
    talk.plays(9 * SECOND)
    talk.speaks(0, 0, SECOND)
    talk.told(final(0, "one"))
    assert talk.plays(SECOND) == []
    assert talk.told(native.Ack(SECOND + 599 * MS)) == []
    assert talk.told(native.Ack(SECOND + 600 * MS)) == ["EndOfTurn"]


def test_an_eager_end_that_speech_takes_back(partial, final) -> None:
    talk = Talk(EAGER)
    talk.speaks(0, 0, SECOND)
    talk.told(final(0, "one"))
    assert talk.told(native.SpeechStarted(1, 0, SECOND + 500 * MS)) == ["TurnResumed"]
    assert talk.told(partial(1, "", "two", start=SECOND)) == ["Update"]
    assert talk.told(native.Ack(5 * SECOND)) == []
    talk.told(native.SpeechEnded(1, 0, 5 * SECOND))
    assert talk.told(final(1, "two", start=SECOND, end=5 * SECOND)) == ["EagerEndOfTurn"]
    assert talk.told(native.Ack(6 * SECOND)) == ["EndOfTurn"]
    assert talk.heard[-1]["transcript"] == "one two"
    assert talk.heard[-1]["turn_index"] == 0


def test_speech_after_a_longer_pause_is_another_turn(final) -> None:
    talk = Talk(EAGER)
    talk.speaks(0, 0, SECOND)
    talk.told(final(0, "one"))
    assert talk.told(native.SpeechStarted(1, 0, 2 * SECOND)) == ["EndOfTurn"]


@pytest.mark.parametrize(("gap", "said"), [(500, "Update"), (900, "EndOfTurn")])
def test_what_follows_may_be_known_before_the_final(final, gap: int, said: str) -> None:
    talk = Talk(EAGER)
    talk.speaks(0, 0, SECOND)
    talk.told(native.SpeechStarted(1, 0, SECOND + gap * MS))
    assert talk.told(final(0, "one")) == ["StartOfTurn", said]


def test_a_turn_ends_by_force(final) -> None:
    talk = Talk()
    talk.speaks(0, 0, SECOND)
    assert talk.says(type="ForceEndTurn") == [native.Flush()]
    assert talk.told(final(0, "one")) == ["StartOfTurn", "Update"]
    assert talk.told(native.Flushed(SECOND)) == ["EndOfTurn"]
    assert talk.heard[-1]["trigger"] == "manual"
    talk.says(type="ForceEndTurn")
    assert talk.told(native.Flushed(SECOND)) == []


@pytest.mark.parametrize("query", ["", EAGER])
def test_turns_before_one_that_ends_by_force_stay_apart(final, query: str) -> None:
    """A client that is ahead of the recogniser: its wish is there before the finals are."""
    for is_late in (True, False):
        talk = Talk(query)
        talk.speaks(0, 0, SECOND)
        talk.says(type="ForceEndTurn")
        if is_late:  # its final comes when the next turn is heard already
            talk.speaks(1, 2 * SECOND, 3 * SECOND)
            talk.told(final(0, "one"))
        else:
            talk.told(final(0, "one"))
            talk.speaks(1, 2 * SECOND, 3 * SECOND)
        talk.told(final(1, "two"), native.Flushed(3 * SECOND))
        ends = [each for each in talk.heard if each.get("event") == "EndOfTurn"]
        assert [each["transcript"] for each in ends] == ["one", "two"]
        assert [each["trigger"] for each in ends] == ["model", "manual"]


def test_the_end_of_the_stream_ends_the_turn(final) -> None:
    talk = Talk(EAGER)
    talk.speaks(0, 0, SECOND)
    assert talk.says(type="CloseStream") == [native.Stop()]
    assert talk.told(final(0, "one")) == ["StartOfTurn"]
    assert talk.told(native.Done(SECOND, 1)) == ["EndOfTurn"]


def test_turns_before_the_end_of_the_stream_stay_apart(final) -> None:
    """A client that is ahead of the recogniser: it has said everything before it hears anything."""
    talk = Talk(EAGER)
    talk.says(type="CloseStream")
    talk.speaks(0, 0, SECOND)
    assert talk.told(final(0, "one")) == ["StartOfTurn"]
    assert talk.speaks(1, 2 * SECOND, 3 * SECOND) == ["EndOfTurn"]
    assert talk.told(final(1, "two")) == ["StartOfTurn"]
    assert talk.told(native.Done(3 * SECOND, 2)) == ["EndOfTurn"]
    assert talk.closing(1000, "done") == (1000, "")


def test_configure_changes_only_what_it_names() -> None:
    talk = Talk()
    (change,) = talk.says(type="Configure", thresholds={"eot_threshold": 0.9})
    assert change == native.Configure(endpointing=native.Endpointing(silence_ms=700))
    assert talk.heard[-1]["thresholds"] == {"eot_threshold": 0.9, "eot_timeout_ms": 5000}
    assert talk.heard[-1]["keyterms"] == ["a"]
    (change,) = talk.says(type="Configure", language_hints=["en"])
    assert change.language == "en"
    assert change.endpointing.silence_ms == 700


@pytest.mark.parametrize(
    "fields", [{"thresholds": {"eot_threshold": 7}}, {"language_hints": ["tlh"]}]
)
def test_what_cannot_be_configured_changes_nothing(fields: dict[str, Any]) -> None:
    talk = Talk()
    assert talk.says(type="Configure", **fields) == ()
    assert talk.heard[-1]["type"] == "ConfigureFailure"
    assert talk.says(type="Configure")[0].endpointing == native.Endpointing()


def test_text_that_is_no_message_ends_the_conversation() -> None:
    with pytest.raises(RemoteProtocolError):
        Talk().hear("junk")
    talk = Talk()
    talk.told(native.Error("bad_message", "m", None, False, True))
    assert talk.heard[-1]["code"] == "BAD_MESSAGE"
    assert talk.heard[-1]["sequence_id"] == 1
