"""A network of the real shape and a toy size, with weights that make every part matter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    WhisperConfig,
    WhisperModel,
)

from stream_server.recogniser.decoder import TINY_VISION
from stream_server.recogniser.model import CanvasConfig, ModelConfig, TranscriptionModel
from stream_server.recogniser.ngram import NgramModel, longer_keys, short_keys, word_keys
from stream_server.recogniser.phones import PhoneModel, Sayings
from stream_server.recogniser.projector import Projector, ProjectorConfig
from stream_server.recogniser.recogniser import DiffusionRecogniser
from stream_server.recogniser.support import GuardConfig
from stream_server.recogniser.tokenizer import Tokenizer
from tests.server.recogniser.scripted import CPU, MakeRecogniser, Script, deafen

SENTENCES = (
    "zero one two three four five six seven eight nine",
    "the quick brown fox jumps over the lazy dog",
    "don't you think that it's the same old song",
)


@pytest.fixture(autouse=True)
def _quiet_torch() -> Iterator[None]:
    """One thread, and the same random numbers whichever tests ran before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_phones() -> Callable[..., PhoneModel]:
    """Make what hears three phones in eight features; 3 and 4 begin words.

    ``words`` and ``pieces`` give the phones of words, by their tokens, and of tokens; arrays of the
    head may be given by name.
    """

    def make(
        words: Mapping[tuple[int, ...], list[int]] | None = None,
        pieces: Mapping[int, list[int]] | None = None,
        vocabulary: int = 8,
        width: int = 8,
        layer: int = 0,
        **head: Any,
    ) -> PhoneModel:
        ordered = sorted(
            (short_keys(word_keys([word]))[0], said) for word, said in (words or {}).items()
        )
        spelt = [(pieces or {}).get(token, []) for token in range(vocabulary)]
        chance = np.random.default_rng(0)
        arrays = {
            "scale": np.ones(width, np.float32),
            "shift": np.zeros(width, np.float32),
            "weight": chance.normal(0, 1, (4, width)).astype(np.float32),
            "bias": np.zeros(4, np.float32),
        }
        return PhoneModel(
            layer=layer,
            heads=np.array([token in (3, 4) for token in range(vocabulary)], np.uint8),
            words=np.array([key for key, _ in ordered], np.uint32),
            said=_sayings([said for _, said in ordered]),
            pieces=_sayings(spelt),
            **{**arrays, **head},
        )

    return make


def _sayings(said: Sequence[Sequence[int]]) -> Sayings:
    flat = np.array([phone for each in said for phone in each], np.uint8)
    return Sayings.of(flat, np.array([len(each) for each in said], np.uint8))


@pytest.fixture(scope="session")
def make_language() -> Callable[[Mapping[tuple[int, ...], tuple[float, float]]], NgramModel]:
    """Make a language model of given sequences: log-probability and back-off weight of each.

    Texts begin after token 2 and end in 1; 3 and 4 begin words; known are the words 4 and 3 5.
    """

    def key(tokens: tuple[int, ...]) -> np.uint64:
        keys = np.zeros(1, np.uint64)
        for token in tokens:
            keys = longer_keys(keys[:, None], np.array([token]))[:, 0]
        return np.uint64(keys[0])

    def make(entries: Mapping[tuple[int, ...], tuple[float, float]]) -> NgramModel:
        scores, backoffs = np.array(list(entries.values())).T
        heads = np.zeros(9, np.uint8)
        heads[[1, 3, 4]] = 1
        words = np.array([key((4,)), key((3, 5))])
        return NgramModel.build(
            order=3,
            begin=2,
            entries=(np.array([key(each) for each in entries]), scores, backoffs),
            heads=heads,
            words=words,
        )

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Knows the letters and some words."""
    return Tokenizer.train(SENTENCES, 64)


@pytest.fixture(scope="session")
def decoder_options(toy_decoder: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Of the toy network's decoder."""
    return {**toy_decoder, "vocab_size": tokenizer.size}


@pytest.fixture(scope="session")
def conformer_options() -> dict[str, Any]:
    """Of a small Fast Conformer."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_kernel_size": 5,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 8,
        "num_mel_bins": 80,
        "scale_input": True,
        "layerdrop": 0.0,
        "dropout": 0.1,
    }


@pytest.fixture(scope="session")
def config(decoder_options: dict[str, Any], conformer_options: dict[str, Any]) -> ModelConfig:
    """The toy network."""
    return ModelConfig(
        name="toy",
        languages=("en",),
        encoder_kind="conformer",
        encoder=conformer_options,
        projector=ProjectorConfig(32, 32, 32, halvings=2, norm=True),
        decoder=decoder_options,
        experts="dense",
        ctc_parts=4,
        canvas=CanvasConfig(buckets=(16, 32, 48)),
        # Weights by chance support nothing.
        guard=GuardConfig(0, 0),
    )


@pytest.fixture(scope="session")
def enliven() -> Callable[[nn.Module], None]:
    """Draws weights so large that whatever reaches an output it should not is seen there."""

    def draw(module: nn.Module, seed: int = 1) -> None:
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim >= 2:
                    experts = "experts" in name
                    inputs = parameter.shape[-1] if experts else math.prod(parameter.shape[1:])
                    parameter.normal_(std=inputs**-0.5, generator=chance)
                else:
                    parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.1)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.3, generator=chance)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0, generator=chance)

    return draw


@pytest.fixture(scope="session")
def make_model(
    config: ModelConfig, enliven: Callable[[nn.Module], None]
) -> Callable[..., TranscriptionModel]:
    """Builds a network; fields of the configuration may be given."""

    def make(**changes: Any) -> TranscriptionModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = TranscriptionModel(replace(config, **changes)).eval()
        enliven(model)
        return model

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., TranscriptionModel]) -> TranscriptionModel:
    """One network for all tests that leave it as it is."""
    return make_model()


@dataclass(frozen=True)
class PublishedFolders:
    """The parts of a published system of toy size, as their makers would publish them."""

    backbone: Path
    audio_encoder: Path
    model: DiffusionGemmaForBlockDiffusion
    """What is in ``backbone``."""
    lora: dict[str, torch.Tensor]
    """By the names that PEFT gives them after ``base_model.model.``, without ``.weight``."""
    projector: Projector


def gemma_like_tokenizer() -> RawTokenizer:
    """Gemma's kind of encoding: spaces as U+2581 within pieces, bytes for what has no piece."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|audio|>"]
    tokenizer = RawTokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    texts = [
        *SENTENCES,
        "Transcribe the speech in English, Chinese, xx.",
        "user model\n",
        "\u4f60\u597d",
    ]
    tokenizer.train_from_iterator(texts * 4, trainer)
    # Bytes are ordinary pieces of Gemma's, not special ones.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if "<0x" not in t["content"]]
    return RawTokenizer.from_str(json.dumps(document))


@pytest.fixture(scope="session")
def published_folders(
    tmp_path_factory: pytest.TempPathFactory,
    enliven: Callable[..., None],
    toy_decoder: dict[str, Any],
) -> PublishedFolders:
    """Saved by transformers itself, with a vision tower and with the decoder of Whisper."""
    place = tmp_path_factory.mktemp("published")
    tokenizer = gemma_like_tokenizer()
    text = {
        **toy_decoder,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "vocab_size": tokenizer.get_vocab_size(),
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = DiffusionGemmaConfig(text_config=text, vision_config=TINY_VISION)
        model = DiffusionGemmaForBlockDiffusion(config).eval()
        enliven(model)
        model.save_pretrained(place / "backbone")
        tokenizer.save(str(place / "backbone" / "tokenizer.json"))
        whisper = WhisperModel(
            WhisperConfig(
                d_model=24,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=24,
                decoder_ffn_dim=24,
                vocab_size=50,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=1,
                decoder_start_token_id=1,
            )
        )
        whisper.save_pretrained(place / "whisper")
        lora = {}
        for side in ("encoder.language_model", "decoder"):
            for name, linear in model.model.get_submodule(side).named_modules():
                if isinstance(linear, nn.Linear) and "self_attn" in name:
                    lora[f"model.{side}.{name}.lora_A"] = torch.randn(4, linear.in_features) * 0.2
                    lora[f"model.{side}.{name}.lora_B"] = torch.randn(linear.out_features, 4) * 0.2
        projector = Projector(ProjectorConfig(24, 20, 32))
    return PublishedFolders(place / "backbone", place / "whisper", model, lora, projector)


@pytest.fixture(scope="module")
def deaf_model(make_model: Callable[..., TranscriptionModel]) -> TranscriptionModel:
    """Hears nothing by CTC, so that canvases are as long as audio and draft let expect."""
    return deafen(make_model())


@pytest.fixture
def make(deaf_model: TranscriptionModel, tokenizer: Tokenizer) -> MakeRecogniser:
    """Builds a recogniser around the shared network."""

    def build(network: TranscriptionModel | None = None) -> DiffusionRecogniser:
        return DiffusionRecogniser(network or deaf_model, tokenizer, CPU, steps=6)

    return build


@pytest.fixture
def recogniser(make: MakeRecogniser) -> DiffusionRecogniser:
    return make()


@pytest.fixture
def doctor(
    deaf_model: TranscriptionModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int, int], tuple[Sequence[int], Sequence[float]]]], Script]:
    """Puts a script in the decoder's place."""

    def install(say: Callable[[int, int], tuple[Sequence[int], Sequence[float]]]) -> Script:
        script = Script(deaf_model.decoder.vocabulary, say)
        monkeypatch.setattr(deaf_model.decoder, "denoise", script)
        return script

    return install
