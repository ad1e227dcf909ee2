"""Teach a trained network to hear phones: a head on a layer of its encoder, all else as it is.

The head that ``train run`` has there serves the encoder's learning and belongs to one run; this one
is learnt for the weights that ship, also where those are a mixture of runs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from stream_server.recogniser.model import TranscriptionModel
from stream_server.recogniser.ngram import NgramModel, short_keys, word_keys
from stream_server.recogniser.phones import PhoneModel, Sayings
from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.augment import AugmentConfig, perturbed_features
from stream_server.training.corpus import BatchConfig, Corpus
from stream_server.training.ctc import ctc_loss
from stream_server.training.loop import learning_rate
from stream_server.training.losses import MiddleCtc
from stream_server.training.phones import Lexicon
from stream_server.training.recipe import OptimiserConfig

_RATES = OptimiserConfig(learning_rate=2e-3, final_rate=0.0, warmup=0)
"""It falls from the beginning on, to nothing."""
_EVERY = 50
"""Updates between two lines of a report."""


def small_batches(config: BatchConfig) -> BatchConfig:
    """Return batches for a head: it is small, and learns as much from many as from large ones."""
    return replace(config, seconds=min(40.0, config.seconds))


def fit_head(
    model: TranscriptionModel,
    corpus: Corpus,
    head: MiddleCtc,
    augment: AugmentConfig,
    seconds: float,
    report: Callable[[Mapping[str, float]], None],
    seed: int = 0,
) -> None:
    """Train a head of an encoder that stays as it is.

    Args:
        model: the network, on the corpus's device.
        corpus: what is heard.
        head: on one of its layers, on the same device.
        augment: how the audio is perturbed, as for the network itself.
        seconds: how long to train.
        report: told the loss, in nats a phone, every so often.
        seed: of what is drawn.
    """
    torch.manual_seed(seed)
    chance = random.Random(seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=_RATES.learning_rate, weight_decay=0.01)
    began = time.monotonic()
    losses: list[float] = []
    while (done := (time.monotonic() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(len(losses), done, _RATES)
        batch = corpus.batch(chance, len(losses))
        with torch.no_grad():
            pcm, lengths = batch.pcm, batch.lengths
            features, frames = perturbed_features(model.features, pcm, lengths, augment)
            encoded = model.encode(features, frames)
        loss = ctc_loss(head(), encoded.state_counts, batch.phones, batch.phone_lengths)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % _EVERY == 0:
            report({"update": len(losses), "loss": float(np.mean(losses[-_EVERY:]))})


def known_words(
    lexicon: Lexicon, tokenizer: Tokenizer, language: NgramModel | None, said: Collection[str]
) -> dict[str, list[int]]:
    """Return the phones of the words that a network can be asked for.

    Args:
        lexicon: of all words.
        tokenizer: the encoding.
        language: the network's; without one, every word of the lexicon is kept.
        said: plain texts whose words are kept in any case.
    """
    if language is None:
        return lexicon.words
    own = {word for text in said for word in text.split()}
    words = sorted(lexicon.words)
    known = language.knows(word_keys([tokenizer.encode(word) for word in words]))
    return {
        word: lexicon.words[word]
        for word, is_known in zip(words, known.tolist(), strict=True)
        if is_known or word in own
    }


def phone_model(
    head: MiddleCtc,
    layer: int,
    lexicon: Lexicon,
    words: Mapping[str, list[int]],
    tokenizer: Tokenizer,
    vocabulary: int,
) -> PhoneModel:
    """Put together what a checkpoint keeps of a head.

    Args:
        head: what hears phones.
        layer: of the encoder, that it is on.
        lexicon: of which its classes are.
        words: phones of the words to keep.
        tokenizer: the encoding.
        vocabulary: tokens that the network knows.
    """
    spelt = [tokenizer.piece(token) for token in range(vocabulary)]
    keys = short_keys(word_keys([tokenizer.encode(word) for word in words]))
    # Of two words with one hash, rare as they are, the first is kept.
    kept, places = np.unique(keys, return_index=True)
    said = list(words.values())
    norm, linear = head.norm, head.linear
    return PhoneModel(
        layer=layer,
        scale=_array(norm.weight),
        shift=_array(norm.bias),
        weight=_array(linear.weight),
        bias=_array(linear.bias),
        heads=np.array([piece.startswith(" ") for piece in spelt], np.uint8),
        words=kept,
        said=_sayings([said[place] for place in places.tolist()]),
        pieces=_sayings([[] if piece.startswith("<") else lexicon.spell(piece) for piece in spelt]),
    )


def _array(weights: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return weights.detach().float().cpu().numpy()


def _sayings(said: list[list[int]]) -> Sayings:
    codes = np.array([code for each in said for code in each], np.uint8)
    return Sayings.of(codes, np.array([len(each) for each in said], np.uint8))


__all__ = ["fit_head", "known_words", "phone_model", "small_batches"]
