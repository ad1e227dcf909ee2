"""A network that was trained hears phones afterwards, and is itself as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from stream_server.recogniser.ngram import NgramModel
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.augment import AugmentConfig
from stream_server.training.corpus import BatchConfig, Corpus
from stream_server.training.language_model import LanguageConfig, learn
from stream_server.training.loop import Trainer
from stream_server.training.losses import MiddleCtc
from stream_server.training.phone_head import fit_head, known_words, phone_model, small_batches
from stream_server.training.phones import Lexicon

QUIET = AugmentConfig(
    babble=0.0, room=0.0, microphone=0.0, tract=0.0, time_masks=0, snr=(60.0, 60.0)
)


def head_of(trainer: Trainer, lexicon: Lexicon) -> MiddleCtc:
    return MiddleCtc(trainer.model.encoder, lexicon.size, 1)


def test_a_head_learns_and_the_network_does_not(
    trainer: Trainer, make_corpus: Callable[..., Corpus], lexicon: Lexicon
) -> None:
    model = trainer.model.eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    told: list[Mapping[str, float]] = []
    fit_head(model, make_corpus(), head_of(trainer, lexicon), QUIET, 6.0, told.append)
    assert len(told) >= 2
    assert [each["update"] for each in told] == [50 * (n + 1) for n in range(len(told))]
    assert told[-1]["loss"] < 0.9 * told[0]["loss"]
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_batches_for_a_head_are_small() -> None:
    assert small_batches(BatchConfig(seconds=300.0)).seconds == 40.0
    assert small_batches(BatchConfig(seconds=8.0)).seconds == 8.0


@pytest.fixture
def language(trainer: Trainer, tokenizer: Tokenizer) -> NgramModel:
    config = LanguageConfig(order=3, once=9, entries=10_000)
    return learn({"lines": ["one two"] * 4}, tokenizer, trainer.model.vocabulary, config)


def test_words_are_kept_that_the_language_model_knows_or_somebody_said(
    tokenizer: Tokenizer, lexicon: Lexicon, language: NgramModel
) -> None:
    assert known_words(lexicon, tokenizer, None, []) == lexicon.words
    kept = known_words(lexicon, tokenizer, language, ["two nine", "never"])
    assert kept == {word: lexicon.words[word] for word in ("nine", "one", "two")}


def test_a_checkpoint_keeps_the_head_and_how_words_are_said(
    trainer: Trainer, tokenizer: Tokenizer, lexicon: Lexicon
) -> None:
    head, model = head_of(trainer, lexicon), trainer.model.eval()
    words = {word: lexicon.words[word] for word in ("six", "two")}
    phones = phone_model(head, 1, lexicon, words, tokenizer, model.vocabulary)
    assert phones.layer == 1
    for text in ("six two", "two", "six six"):
        assert phones.phones(tokenizer.encode(text)) == lexicon.encode(text)
    spelt = phones.phones(tokenizer.encode("nine"))
    assert spelt == lexicon.spell("nine") != lexicon.encode("nine")
    assert phones.phones([0, 1, 2]) == [], "special tokens are not said"
    with torch.no_grad():
        pcm = torch.randn(1, 8000) * 0.1
        model.listen(pcm, torch.tensor([8000]))
        heard = head()
        model.hear_phones(phones)
        (logs,) = model.phone_logs(model.listen(pcm, torch.tensor([8000])))
    assert logs is not None
    np.testing.assert_allclose(logs, heard[0].numpy(), atol=1e-4)
