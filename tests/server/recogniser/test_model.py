"""The whole network: what its configuration keeps, and how prompts are laid out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_server.recogniser.alignment import greedy
from stream_server.recogniser.beam import BeamSearch
from stream_server.recogniser.draft import DraftConfig
from stream_server.recogniser.features import FeatureConfig
from stream_server.recogniser.model import CanvasConfig, Encoded, ModelConfig, TranscriptionModel
from stream_server.recogniser.phones import PhoneModel
from stream_server.recogniser.tokenizer import BEGIN, END, TEXT, Tokenizer

LENGTHS = (16_000, 4_000, 9_999)


def sound(*lengths: int) -> tuple[Tensor, Tensor]:
    """Rows of noise, zero behind their ends."""
    pcm = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        pcm[row, :length] = torch.randn(length) * 0.1
    return pcm, torch.tensor(lengths)


@pytest.fixture
def languages(tokenizer: Tokenizer) -> Tensor:
    return torch.tensor([tokenizer.language(name) for name in ("en", None, "de")])


def test_a_configuration_survives_json(config: ModelConfig) -> None:
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("section", [None, "projector", "features", "canvas", "sampler"])
def test_an_unknown_field_is_refused(config: ModelConfig, section: str | None) -> None:
    data = config.to_json()
    (data[section] if section else data)["colour"] = "red"
    with pytest.raises(TypeError, match="colour"):
        ModelConfig.from_json(data)


def test_a_missing_field_is_refused(config: ModelConfig) -> None:
    data = config.to_json()
    del data["name"]
    with pytest.raises(TypeError, match="name"):
        ModelConfig.from_json(data)


def test_a_canvas_is_the_smallest_that_holds_the_text() -> None:
    plan = CanvasConfig(buckets=(16, 32, 48))
    sizes = {0: 16, 16: 16, 17: 32, 32: 32, 33: 48, 48: 48, 49: 48, 1000: 48}
    assert {tokens: plan.bucket(tokens) for tokens in sizes} == sizes


@torch.no_grad()
def test_a_row_of_audio_is_heard_as_if_it_were_alone(model: TranscriptionModel) -> None:
    pcm, lengths = sound(*LENGTHS)
    together = model.listen(pcm, lengths)
    for row, length in enumerate(LENGTHS):
        alone = model.listen(pcm[row : row + 1, :length], lengths[row : row + 1])
        count, frames = int(alone.counts), int(alone.counts) * model.config.ctc_parts
        assert int(together.counts[row]) == count == alone.tokens.shape[1]
        assert int(together.state_counts[row]) == int(alone.state_counts) == alone.states.shape[1]
        assert alone.ctc.shape == (1, frames, model.decoder.vocabulary)
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(together.tokens[row, :count], alone.tokens[0], **close)
        torch.testing.assert_close(together.ctc[row, :frames], alone.ctc[0], **close)


@torch.no_grad()
def test_ctc_frames_cover_the_audio(model: TranscriptionModel) -> None:
    encoded = model.listen(*sound(32_000))
    assert model.samples_per_ctc_frame == 640
    covered = encoded.ctc.shape[1] * model.samples_per_ctc_frame
    assert 32_000 <= covered < 32_000 + 4 * 640
    assert not encoded.ctc.requires_grad
    torch.testing.assert_close(encoded.ctc.exp().sum(dim=-1), torch.ones(encoded.ctc.shape[:2]))


def encoded_of(tokens: Tensor, counts: Tensor) -> Encoded:
    nothing = torch.zeros(0)
    return Encoded(tokens, counts, nothing, nothing, nothing)


@torch.no_grad()
def test_a_prompt_is_begin_language_audio_text(
    model: TranscriptionModel, languages: Tensor
) -> None:
    tokens = torch.randn(3, 6, 32)
    counts = torch.tensor([6, 1, 4])
    embeddings, lengths = model.prompt(encoded_of(tokens, counts), languages)
    assert embeddings.shape == (3, 9, 32)
    assert lengths.tolist() == [9, 4, 7]
    embed = model.decoder.embed
    for row, count in enumerate(counts.tolist()):
        expected = torch.cat(
            [
                embed(torch.tensor([BEGIN])),
                embed(languages[row : row + 1]),
                tokens[row, :count],
                embed(torch.tensor([TEXT])),
            ]
        )
        assert torch.equal(embeddings[row, : count + 3], expected)


@torch.no_grad()
def test_a_prompt_does_not_depend_on_its_neighbours(
    model: TranscriptionModel, languages: Tensor
) -> None:
    pcm, lengths = sound(*LENGTHS)
    together = model.prefill(model.listen(pcm, lengths), languages)
    for row, length in enumerate(LENGTHS):
        part = slice(row, row + 1)
        alone = model.prefill(model.listen(pcm[part, :length], lengths[part]), languages[part])
        own = together.row(row)
        assert own.lengths.tolist() == alone.lengths.tolist()
        for ours, theirs in zip(
            (*own.keys, *own.values), (*alone.keys, *alone.values), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_language_and_the_audio_are_in_the_prompt(
    model: TranscriptionModel, languages: Tensor
) -> None:
    pcm, lengths = sound(8_000)
    english, german = languages[:1], languages[2:]
    keys = [
        model.prefill(model.listen(audio, lengths), language).keys[-1][0, :, -1]
        for audio, language in ((pcm, english), (pcm, german), (pcm.flip(1), english))
    ]
    assert not torch.allclose(keys[0], keys[1], atol=1e-2)
    assert not torch.allclose(keys[0], keys[2], atol=1e-2)


@pytest.mark.xfail(
    strict=True,
    raises=RuntimeError,
    reason="window and filters of the features are cast with the weights",
)
@torch.no_grad()
def test_the_network_runs_in_half_precision(make_model: Callable[..., TranscriptionModel]) -> None:
    model = make_model().to(torch.bfloat16)
    encoded = model.listen(*sound(8_000))
    assert encoded.tokens.dtype is torch.bfloat16
    assert encoded.ctc.dtype is torch.float32
    cache = model.prefill(encoded, torch.tensor([5]))
    canvas, width = torch.randint(model.decoder.vocabulary, (1, 16)), torch.tensor([16])
    scores = model.decoder.denoise(canvas, width, cache, None, None)
    assert scores.isfinite().all()


@torch.no_grad()
def test_a_whisper_prompt_has_188_audio_tokens(
    make_model: Callable[..., TranscriptionModel], config: ModelConfig
) -> None:
    options: dict[str, Any] = {
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "num_mel_bins": 80,
    }
    model = make_model(
        encoder_kind="whisper",
        encoder=options,
        projector=replace(config.projector, input_size=16, halvings=3),
        features=FeatureConfig(level="absolute", fixed_samples=480_000),
        ctc_parts=1,
    )
    encoded = model.listen(*sound(16_000, 5_000))
    assert encoded.counts.tolist() == [188, 188]
    assert model.samples_per_ctc_frame == 2560
    _, lengths = model.prompt(encoded, torch.tensor([5, 5]))
    assert lengths.tolist() == [191, 191]


@torch.no_grad()
def test_a_draft_is_what_ctc_and_the_causal_half_find_most_likely(
    make_model: Callable[..., TranscriptionModel],
) -> None:
    language = torch.tensor([6])
    plain = make_model()
    models = {w: make_model(draft=DraftConfig(candidates=8, causal=w)) for w in (0.0, 0.7, 1000.0)}
    changes = 0
    for seed in range(6):
        torch.manual_seed(seed)
        pcm, lengths = sound(12_000)
        encoded = plain.listen(pcm, lengths)
        logs = encoded.ctc[0].numpy()
        found = BeamSearch(DraftConfig(candidates=8)).candidates(logs)
        prompt = plain.prefill(encoded, language).row(0)
        read = plain.decoder.read([each.tokens for each in found], prompt, TEXT, END)
        drafts = set()
        for weight, model in models.items():
            _, (frames,) = model.hear(pcm, lengths, language)
            totals = [each.score + weight * r for each, r in zip(found, read, strict=True)]
            best = found[int(np.argmax(totals))].tokens
            assert tuple(frames.draft()) == best
            drafts.add(best)
        changes += len(drafts) > 1
    assert changes, "the causal half has a say"
    _, (frames,) = plain.hear(pcm, lengths, language)
    assert frames.draft() == greedy(logs), "one candidate is CTC's best path"


@torch.no_grad()
def test_a_brief_draft_is_read_by_the_causal_half(
    make_model: Callable[..., TranscriptionModel],
) -> None:
    model, language = make_model(), torch.tensor([6])
    lengths_of_drafts = set()
    for seed, samples in enumerate((6_000, 12_000, 64_000)):
        torch.manual_seed(seed)
        pcm, lengths = sound(samples)
        _, (frames,) = model.hear(pcm, lengths, language)
        draft = frames.draft()
        lengths_of_drafts.add(len(draft) <= 12)
        if 0 < len(draft) <= 12:
            prompt = model.prefill(model.listen(pcm, lengths), language).row(0)
            (read,) = model.decoder.read([draft], prompt, TEXT, END)
            assert frames.read() == pytest.approx(math.exp(read / (len(draft) + 1)))
            assert 0 < frames.read() < 1
        else:
            assert frames.read() == 1
    assert lengths_of_drafts == {True, False}


@torch.no_grad()
def test_phones_of_each_row_are_those_of_the_row_alone(
    make_model: Callable[..., TranscriptionModel], make_phones: Callable[..., PhoneModel]
) -> None:
    model = make_model()
    pcm, lengths = sound(*LENGTHS)
    assert model.phone_logs(model.listen(pcm, lengths)) == [None] * 3
    width = model.encoder.hidden_size
    model.hear_phones(make_phones(vocabulary=model.vocabulary, width=width, layer=1))
    together = model.phone_logs(model.listen(pcm, lengths))
    for row, length in enumerate(LENGTHS):
        part = slice(row, row + 1)
        (alone,) = model.phone_logs(model.listen(pcm[part, :length], lengths[part]))
        heard = together[row]
        assert heard is not None
        assert alone is not None
        np.testing.assert_allclose(heard, alone, atol=1e-3)
        np.testing.assert_allclose(np.exp(heard).sum(axis=1), 1.0, rtol=1e-4)


@torch.no_grad()
def test_phones_have_a_say_in_the_draft(
    make_model: Callable[..., TranscriptionModel], make_phones: Callable[..., PhoneModel]
) -> None:
    model = make_model(draft=DraftConfig(candidates=8, causal=0.0, phones=0.5))
    width, size = model.encoder.hidden_size, model.vocabulary
    pieces = {token: [1 + token % 3] for token in range(size)}
    changes = 0
    for seed in range(6):
        torch.manual_seed(seed)
        pcm, lengths = sound(12_000)
        model.phones = None
        _, (frames,) = model.hear(pcm, lengths, torch.tensor([6]))
        before = tuple(frames.draft())
        model.hear_phones(make_phones(pieces=pieces, vocabulary=size, width=width, layer=seed % 2))
        (heard,) = model.phone_logs(encoded := model.listen(pcm, lengths))
        search = BeamSearch(model.config.draft, None, model.phones)
        wanted = search.candidates(encoded.ctc[0].numpy(), heard)[0].tokens
        _, (frames,) = model.hear(pcm, lengths, torch.tensor([6]))
        assert tuple(frames.draft()) == wanted
        changes += wanted != before
    assert changes
