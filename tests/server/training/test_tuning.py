"""Weights are chosen by the clips that decide, and only by those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stream_server.recogniser.draft import DraftConfig, Logs
from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.data import Clip
from stream_server.training.language_model import LanguageConfig, learn
from stream_server.training.loop import Trainer
from stream_server.training.losses import MiddleCtc
from stream_server.training.pack import RATE
from stream_server.training.phone_head import phone_model
from stream_server.training.phones import Lexicon
from stream_server.training.tuning import CAUSAL, STEPS, Heard, Rates, Tuner, describe, hear

LINES = ("one two three", "one two four", "five two three") * 4
PLAIN = DraftConfig(candidates=4, beam=20, causal=0.0, language=0.0)


@pytest.fixture
def model(trainer: Trainer) -> TranscriptionModel:
    """A network that was never trained, and a language model of the lines."""
    network = trainer.model.eval()
    config = LanguageConfig(order=3, once=9, entries=10_000)
    network.language = learn({"lines": LINES}, trainer.tokenizer, network.vocabulary, config)
    return network


def heard_as(tokenizer: Tokenizer, text: str, right: str, size: int) -> Logs:
    """Frames in which ``text`` is a little likelier, token by token, than ``right``."""
    pairs = list(zip(tokenizer.encode(text), tokenizer.encode(right), strict=True))
    logs = np.full((2 * len(pairs), size), 1e-4, np.float32)
    for place, (first, second) in enumerate(pairs):
        logs[2 * place, second] = 0.45
        logs[2 * place, first] = 0.55 if first != second else 1.0
        logs[2 * place + 1, 0] = 1.0
    return np.log(logs / logs.sum(axis=1, keepdims=True))


def clips(model: TranscriptionModel, tokenizer: Tokenizer, tmp_path: Path) -> list[Heard]:
    """Two clips that are misheard; only the first decides."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    return hear(model, tokenizer, {"a": [Clip(path, "one two three", "ann", 1.0, "a")] * 2}, 2)


def test_of_a_stretch_no_more_is_heard(
    model: TranscriptionModel, trainer: Trainer, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * RATE), RATE)
    whole = Clip(tmp_path / "a.wav", "one", "ann", 2.0, "a")
    stretch = replace(whole, start=RATE // 2, end=3 * RATE // 2, duration=1.0)
    sizes = [
        len(hear(model, trainer.tokenizer, {"a": [clip]}, 1)[0].logs) for clip in (whole, stretch)
    ]
    assert (sizes[0] - sizes[1]) * model.samples_per_ctc_frame == pytest.approx(RATE, abs=2000)


def test_clips_are_heard_set_by_set_and_every_second_decides(
    model: TranscriptionModel, trainer: Trainer, tmp_path: Path
) -> None:
    found = clips(model, trainer.tokenizer, tmp_path)
    assert [each.decides for each in found] == [True, False]
    assert {each.set for each in found} == {"a"}
    assert found[0].text == "one two three"
    frames = (RATE + 2 * (RATE // 5)) / model.samples_per_ctc_frame
    assert found[0].logs.shape[0] == pytest.approx(frames, abs=8)
    np.testing.assert_allclose(np.exp(found[0].logs).sum(axis=1), 1.0, rtol=1e-4)


def test_a_weight_is_found_by_the_clips_that_decide(
    model: TranscriptionModel, trainer: Trainer, tmp_path: Path
) -> None:
    tokenizer, size = trainer.tokenizer, model.vocabulary
    first, second = clips(model, tokenizer, tmp_path)
    wrong = "one two three".replace("three", "trhee")
    logs = heard_as(tokenizer, wrong, "one two three", size)
    misheard = [
        Heard("a", "one two three", logs, None, first.prompt, decides=True),
        # Were it to decide, nothing would be better than to leave what CTC hears.
        Heard("a", wrong, logs, None, second.prompt, decides=False),
    ]
    told: list[tuple[DraftConfig, Rates]] = []
    tuner = Tuner(model, tokenizer, misheard, lambda config, rates: told.append((config, rates)))
    assert tuner.rates(PLAIN) == Rates(pytest.approx(1 / 3), 0.0)
    best = tuner.tune(PLAIN)
    assert best.language > 0
    # Nothing is left for the causal half to gain, so it is not asked.
    assert best.causal == 0.0
    assert {config.causal for config, _ in told} == set(CAUSAL)
    # Steps are told by the clips that decide, the beginning and the end by the others too.
    assert all(rates.other is None for _, rates in told[2:-1])
    assert told[-1][1].other is not None
    assert tuner.rates(best).deciding == 0.0
    assert tuner.rates(best).other > 0
    assert (PLAIN, Rates(pytest.approx(1 / 3), 0.0)) in told
    assert all(config.language >= 0 and config.temperature >= 1 for config, _ in told)


def test_a_configuration_is_told_in_a_line() -> None:
    line = describe(DraftConfig(language=0.45))
    assert "language=0.45" in line
    assert all(name in line for step in STEPS for name in step)


def test_phones_have_their_say_while_weights_are_tried(
    model: TranscriptionModel, trainer: Trainer, lexicon: Lexicon, tmp_path: Path
) -> None:
    tokenizer = trainer.tokenizer
    head = MiddleCtc(model.encoder, lexicon.size, 1)
    model.hear_phones(phone_model(head, 1, lexicon, lexicon.words, tokenizer, model.vocabulary))
    heard = clips(model, tokenizer, tmp_path)[:1]
    assert heard[0].phones is not None
    assert heard[0].phones.shape[1] == lexicon.size
    sure = np.full((40, lexicon.size), 1e-4, np.float32)
    for place, phone in enumerate(lexicon.encode("five two three")):
        sure[2 * place, phone] = sure[2 * place + 1, 0] = 1.0
    sure[:, 0] += 1e-2
    logs = heard_as(tokenizer, "one two three", "five two three", model.vocabulary)
    clip = replace(
        heard[0], text="five two three", logs=logs, phones=np.log(sure / sure.sum(axis=1)[:, None])
    )
    rates = [
        Tuner(model, tokenizer, [clip], lambda *_: None).rates(
            replace(PLAIN, phones=share, candidates=16)
        )
        for share in (0.0, 0.5)
    ]
    assert [rate.deciding for rate in rates] == [pytest.approx(1 / 3), 0.0]
