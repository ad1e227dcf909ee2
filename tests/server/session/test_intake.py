"""From bytes to frames."""

from __future__ import annotations

import numpy as np
import pytest

from stream_protocol.messages import RESUME_LEAD, Resume, Start
from stream_server.errors import BadAudio
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.intake import Intake, feed_together


def pcm16(samples: int, seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(-3000, 3000, samples)
    return values.astype("<i2").tobytes()


def test_every_sample_comes_out_once_and_padding_is_told_apart() -> None:
    intake = Intake(Start(), 2)
    data = pcm16(1000)
    frames = [*intake.feed(data[:1234]), *intake.feed(data[1234:]), *intake.finish()]
    assert sum(each.samples for each in frames) == 1000
    assert all(len(each.pcm) == len(each.speech) * FRAME for each in frames)
    joined = np.concatenate([each.pcm for each in frames])
    expected = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    np.testing.assert_allclose(joined[:1000], expected, atol=1e-4)
    assert not joined[1000:].any()


def test_split_channels_come_apart() -> None:
    intake = Intake(Start(channels=2, channel_mode="split"), 2)
    frames = intake.feed(pcm16(2 * 640))
    assert [(each.channel, each.samples) for each in frames] == [(0, 640), (1, 640)]


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
@pytest.mark.parametrize("position", [0, 320, 3 * 320, 4_000_000])
def test_a_stream_begun_later_is_heard_the_same_once_its_lead_is_over(
    rate: int, position: int
) -> None:
    chance = np.random.default_rng(rate)
    seconds = 24
    loud = np.repeat(10 ** chance.uniform(-3.5, -0.5, seconds * 4), rate // 4)
    data = (chance.standard_normal(len(loud)) * loud * 8000).astype("<i2").tobytes()
    before = 5 * 320  # samples at 16 kHz that the second stream does not have
    whole = heard(Start(sample_rate=rate, resume=Resume("t", position)), data)
    later = Start(sample_rate=rate, resume=Resume("t", position + before))
    late = heard(later, data[before * rate // 16000 * 2 :])
    lead = RESUME_LEAD // FRAME
    np.testing.assert_array_equal(late[0][RESUME_LEAD:], whole[0][before:][RESUME_LEAD:])
    np.testing.assert_allclose(late[1][lead:], whole[1][before // FRAME :][lead:], atol=1e-6)
    assert len(late[1]) > lead + 100


def heard(start: Start, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The samples and the speech probabilities of a whole stream."""
    intake = Intake(start, 2)
    frames = [
        each for at in range(0, len(data), 4001) for each in intake.feed(data[at : at + 4001])
    ]
    pcm = np.concatenate([each.pcm for each in frames])
    return pcm, np.concatenate([np.array(each.speech) for each in frames])


def test_nothing_in_nothing_out() -> None:
    intake = Intake(Start(), 2)
    assert intake.feed(b"") == []
    assert intake.finish() == []
    assert intake.notice is None


def test_garbage_is_refused() -> None:
    intake = Intake(Start(encoding="pcm_f32le"), 2)
    with pytest.raises(BadAudio):
        intake.feed(np.full(4000, np.nan, "<f4").tobytes())


def test_many_together_are_as_each_alone() -> None:
    starts = [Start(), Start(channels=2, channel_mode="split"), Start(encoding="mulaw"), Start()]
    alone = [Intake(start, 2) for start in starts]
    together = [Intake(start, 2) for start in starts]
    for round_ in range(4):
        data = [pcm16(700 + 100 * round_, seed) for seed in range(3)] + [b""]
        expected = [intake.feed(each) for intake, each in zip(alone, data, strict=True)]
        results = feed_together(list(zip(together, data, strict=True)))
        for own, result in zip(expected, results, strict=True):
            assert isinstance(result, list)
            assert [(f.channel, f.samples) for f in result] == [(f.channel, f.samples) for f in own]
            for mine, theirs in zip(result, own, strict=True):
                np.testing.assert_array_equal(mine.pcm, theirs.pcm)
                np.testing.assert_allclose(mine.speech, theirs.speech, atol=1e-5)


def test_garbage_in_one_leaves_the_others() -> None:
    good, bad = Intake(Start(), 2), Intake(Start(encoding="pcm_f32le"), 2)
    garbage = np.full(4000, np.nan, "<f4").tobytes()
    first, second = feed_together([(bad, garbage), (good, pcm16(640))])
    assert isinstance(first, BadAudio)
    assert isinstance(second, list)
    assert [each.samples for each in second] == [640]
    assert feed_together([]) == []
