"""A tiny Whisper by chance is loaded and decodes greedily, in company as alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from stream_server.errors import ModelError
from stream_server.evaluation.accuracy import decode
from stream_server.evaluation.whisper import load_whisper
from stream_server.recogniser.interface import SAMPLE_RATE, Utterance

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
IDS = {token: 27 + place for place, token in enumerate(SPECIAL)}


@pytest.fixture(autouse=True)
def _quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


def write_processor(folder: Path) -> None:
    # "\u0120" is the space of byte-level encodings.
    vocabulary = {letter: place for place, letter in enumerate([*LETTERS, "\u0120"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)


def write_model(folder: Path, multilingual: bool) -> None:
    torch.manual_seed(3)
    config = WhisperConfig(
        vocab_size=64,
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=24,
        decoder_start_token_id=IDS["<|startoftranscript|>"],
        eos_token_id=IDS["<|endoftext|>"],
        pad_token_id=IDS["<|endoftext|>"],
        bos_token_id=IDS["<|endoftext|>"],
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:  # so that the audio matters
                parameter.normal_(std=3.0 if "encoder" in name else 0.6)
    generation = GenerationConfig(
        decoder_start_token_id=IDS["<|startoftranscript|>"],
        eos_token_id=IDS["<|endoftext|>"],
        pad_token_id=IDS["<|endoftext|>"],
        no_timestamps_token_id=IDS["<|notimestamps|>"],
        suppress_tokens=[*range(27, 64)],
        max_length=12,
        is_multilingual=multilingual,
    )
    if multilingual:
        generation.lang_to_id = {"<|en|>": IDS["<|en|>"], "<|de|>": IDS["<|de|>"]}
        generation.task_to_id = {
            "transcribe": IDS["<|transcribe|>"],
            "translate": IDS["<|translate|>"],
        }
    model.generation_config = generation
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=[True, False], ids=["multilingual", "english"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    write_processor(folder)
    write_model(folder, request.param)
    return folder


def sound(seconds: float, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))
    return (0.1 * values).astype(np.float32)


def test_it_decodes_alone_as_in_company(folder: Path) -> None:
    whisper = load_whisper(str(folder), "cpu")
    assert whisper.info.name == f"whisper {folder}"
    assert whisper.info.languages in (("de", "en"), ("en",))
    utterances = [Utterance(sound(1.0, 1), 1, "en"), Utterance(sound(2.5, 2), 1, "en")]
    together = decode(whisper, utterances)
    assert [each.step for each in together] == [1, 1]
    assert all(each.is_final and each.text for each in together)
    assert together[0].text != together[1].text
    alone = [decode(whisper, [utterance])[0] for utterance in utterances]
    assert [each.text for each in alone] == [each.text for each in together]


def test_it_is_transformers_own_greedy_text(folder: Path) -> None:
    whisper = load_whisper(str(folder), "cpu")
    (heard,) = decode(whisper, [Utterance(sound(1.5, 3), 1, "en")])
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    features = processor(sound(1.5, 3), sampling_rate=SAMPLE_RATE, return_tensors="pt")
    start = [IDS["<|startoftranscript|>"]]
    if whisper.info.languages == ("de", "en"):
        start += [IDS["<|en|>"], IDS["<|transcribe|>"]]
    tokens = torch.tensor([[*start, IDS["<|notimestamps|>"]]])
    written: list[int] = []
    with torch.inference_mode():
        encoded = model.model.encoder(features.input_features)
        for _ in range(len(heard.text.replace(" ", ""))):
            scores = model(encoder_outputs=encoded, decoder_input_ids=tokens).logits[0, -1]
            written.append(int(scores[:27].argmax()))
            tokens = torch.cat([tokens, torch.tensor([[written[-1]]])], dim=1)
    text = processor.tokenizer.decode(written).replace(" ", "")
    assert heard.text.replace(" ", "") == text
    assert len(set(text)) > 1


def test_a_language_need_not_be_known(folder: Path) -> None:
    assert decode(load_whisper(str(folder), "cpu"), [Utterance(sound(1.0, 1), 1)])[0].text


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="whisper checkpoint"):
        load_whisper(str(tmp_path / "nothing"), "cpu")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="whisper checkpoint"):
        load_whisper(str(tmp_path), "cpu")
