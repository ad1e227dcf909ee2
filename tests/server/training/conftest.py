"""A toy recipe, a toy corpus of tones, and a trainer of both."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream_server.recogniser.tokenizer import Tokenizer
from stream_server.training.corpus import BatchConfig, Corpus
from stream_server.training.kokoro import Network
from stream_server.training.loop import Trainer
from stream_server.training.pack import Packed, Samples
from stream_server.training.phones import Lexicon
from stream_server.training.recipe import Recipe, read_recipe

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TOY = """
name = "toy"
seed = 1
vocabulary = 32

[model]
languages = ["en"]
encoder_kind = "conformer"
experts = "dense"
ctc_parts = 4
max_seconds = 4.0

[model.encoder]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 32
conv_kernel_size = 5
subsampling_factor = 4
subsampling_conv_channels = 8
num_mel_bins = 40
layerdrop = 0.0
dropout = 0.1

[model.projector]
input_size = 32
width = 32
output_size = 32
halvings = 2
norm = true

[model.decoder]
hidden_size = 32
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
global_head_dim = 16
num_global_key_value_heads = 1
sliding_window = 1024
num_experts = 4
top_k_experts = 2
moe_intermediate_size = 16
max_position_embeddings = 1024
layer_types = ["sliding_attention", "full_attention"]

[model.features]
mel_bins = 40

[model.canvas]
buckets = [8, 16]

[speech]
max_seconds = 3.0

[speech.weights]
tones = 1.0
words = 2.0

[speech.held_out.tones]
speakers = ["held"]

[batch]
seconds = 4.0
durations = [1.0]
joined = ["tones"]

[optimiser]
steps = 2
learning_rate = 3e-3
warmup = 1
precision = "tf32"
"""


@pytest.fixture(autouse=True)
def _quiet_torch() -> Iterator[None]:
    """One thread, and the same random numbers whichever tests ran before."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def tone() -> Callable[..., Samples]:
    """Makes a tone whose pitch is its number."""

    def make(number: int, samples: int = 4800) -> Samples:
        t = np.arange(samples) / 16_000
        fade = np.minimum(1, np.minimum(t, t[::-1]) * 100)
        return (8000 * fade * np.sin(2 * np.pi * (300 + 150 * number) * t)).astype(np.int16)

    return make


@pytest.fixture(scope="session")
def clips(tone: Callable[..., Samples]) -> list[Packed]:
    """Two sets: tones, of two speakers, and longer rows of them."""
    single = [
        Packed(tone(number, 4000 + 300 * number), text, f"speaker{number % 2}", "tones")
        for number, text in enumerate(DIGITS)
    ]
    pairs = [
        Packed(np.concatenate([tone(a), tone(b)]), f"{DIGITS[a]} {DIGITS[b]}", "other", "words")
        for a, b in ((1, 2), (3, 4), (5, 9))
    ]
    return single + pairs


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Of the words of the toy corpus."""
    return Tokenizer.train([" ".join(DIGITS)] * 20, 32)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The toy recipe."""
    path = tmp_path / "toy.toml"
    path.write_text(TOY)
    return path


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    """The toy recipe, read."""
    return read_recipe(recipe_file)


@pytest.fixture(scope="session")
def lexicon() -> Lexicon:
    """Of the words of the toy corpus, each letter a phone."""
    return Lexicon({word: tuple(word) for word in DIGITS})


@pytest.fixture
def make_corpus(
    clips: list[Packed], tokenizer: Tokenizer, lexicon: Lexicon
) -> Callable[..., Corpus]:
    """Builds a corpus of the toy clips; fields of the batch's configuration may be given."""

    def make(**changes: Any) -> Corpus:
        config = replace(
            BatchConfig(seconds=8.0, durations=(1.0, 2.0), joined=("tones",)), **changes
        )
        weights = {"tones": 1.0, "words": 1.0}
        return Corpus(clips, tokenizer, weights, config, torch.device("cpu"), lexicon)

    return make


@pytest.fixture
def make_trainer(tokenizer: Tokenizer, lexicon: Lexicon) -> Callable[[Recipe], Trainer]:
    """Makes one on the CPU."""
    return lambda recipe: Trainer(recipe, tokenizer, lexicon.size, torch.device("cpu"))


@pytest.fixture
def trainer(recipe: Recipe, make_trainer: Callable[[Recipe], Trainer]) -> Trainer:
    """Of the toy recipe."""
    return make_trainer(recipe)


PUBLISHED = """
name = "toy-published"
seed = 1
vocabulary = 300

[model]
backbone = "/no/backbone"
audio_encoder = "/no/encoder"
languages = ["en"]

[model.projector]
width = 32

[model.lora]
rank = 2
alpha = 4.0

[model.canvas]
buckets = [16, 32]

[model.random_backbone]
hidden_size = 48
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
global_head_dim = 16
num_global_key_value_heads = 1
num_experts = 4
top_k_experts = 2
moe_intermediate_size = 16
max_position_embeddings = 1024
vocab_size = 300
layer_types = ["sliding_attention", "full_attention"]

[model.random_encoder]
d_model = 32
encoder_layers = 1
encoder_attention_heads = 2
encoder_ffn_dim = 32

[speech.weights]
tones = 1.0
words = 2.0

[batch]
seconds = 4.0
durations = [1.0]
joined = ["tones"]
empty = 0.0

[losses]
ctc = 1.0

[optimiser]
steps = 1000
learning_rate = 5e-3
warmup = 5
"""


@pytest.fixture
def published_recipe_file(tmp_path: Path) -> Path:
    """A recipe with a backbone, of toy sizes."""
    path = tmp_path / "published.toml"
    path.write_text(PUBLISHED)
    return path


SYMBOLS = " .AIOQWYabdfhijklmnpstuvwzæðŋɐɑɒɔəɛɜɡɪɹʃʊʌʒʤʧˈˌːθᵊᵻT"
"""What the network can say, but for the silence at both ends."""


@pytest.fixture(scope="session")
def kokoro_package(environment: Callable[..., Path]) -> Iterator[Path]:
    """The real package, without what it depends on, where Python finds it."""
    place = environment(Path(__file__).with_name("kokoro.txt"), "--no-deps")
    (packages,) = place.glob("lib/python*/site-packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(packages)
        yield packages


@pytest.fixture(scope="session")
def kokoro_folder(kokoro_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``train voices`` writes, with random weights and four random voices."""
    # Here, for it is wanted by no other test of this folder.
    import onnx
    from onnx import helper, numpy_helper

    folder = tmp_path_factory.mktemp("kokoro")
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        weights = Network().state_dict()
    # Two frames and a half for each symbol: random weights would have made them 25.
    weights["predictor.duration_proj.linear_layer.bias"].fill_(-3)
    constants = []
    for name, value in weights.items():
        half = value.half().numpy()
        half = half.T if name.endswith(".fc.weight") else half
        part = "decoder" if name.startswith("decoder.") else "encoder"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(half), f"{part}.{name}"))
    graph = helper.make_graph([], "kokoro", [], [], constants)
    onnx.save(helper.make_model(graph), folder / "kokoro.onnx")
    places = {symbol: place for place, symbol in enumerate(SYMBOLS, 1)}
    (folder / "vocab.json").write_text(json.dumps({"vocab": places}), "utf-8")
    (folder / "voices").mkdir()
    chance = np.random.default_rng(0)
    for name in ("af_one", "am_two", "bf_three", "jf_four"):
        style = chance.normal(0, 0.5, (30, 256)).astype(np.float32)
        style.tofile(folder / "voices" / f"{name}.bin")
    return folder
