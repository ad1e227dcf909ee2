"""A model in PocketSphinx's form is read to the bit, and what is drawn from it is as it says."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stream_server.errors import ConfigError, ModelError
from stream_server.training.trigrams import Drawer, packaged, read_trigrams

WORDS = ("</s>", "<s>", "cat", "dog", "the")
UNIGRAMS = (0.3, 1e-30, 0.2, 0.1, 0.4)
PAIRS = {("<s>", "the"): 0.9, ("the", "cat"): 0.5, ("the", "dog"): 0.25, ("cat", "</s>"): 0.8}
TRIPLES = {("<s>", "the", "cat"): 0.2, ("<s>", "the", "dog"): 0.7}


def units(share: float) -> float:
    """A probability as the file has it: a logarithm to the base 1.0001."""
    return float(np.log(share) / np.log(1.0001))


def packed(rows: Sequence[Sequence[int]], widths: Sequence[int]) -> bytes:
    """Rows of numbers, bit after bit, the lowest first."""
    value, place = 0, 0
    for row in rows:
        for number, width in zip(row, widths, strict=True):
            value |= number << place
            place += width
    size = ((len(rows) + (len(widths) == 2)) * sum(widths) + 7) // 8 + 8
    return value.to_bytes(size, "little")


def written(path: Path) -> Path:
    """The model of the constants, as ``lm_trie_write_bin`` writes one."""
    at = {word: place for place, word in enumerate(WORDS)}
    # The trie runs backwards: by the last word, the one in front of it, and the one before both.
    pairs = sorted((at[second], at[first], share) for (first, second), share in PAIRS.items())
    triples = sorted((at[c], at[b], at[a], share) for (a, b, c), share in TRIPLES.items())
    bins = np.zeros((3, 1 << 16), "<f4")
    bins[0, : len(pairs)] = [units(share) for *_, share in pairs]
    bins[2, : len(triples)] = [units(share) for *_, share in triples]
    word, follow = len(WORDS).bit_length(), len(triples).bit_length()
    middle = [
        (first, 0, code, sum((c, b) < (second, first) for c, b, *_ in triples))
        for code, (second, first, _) in enumerate(pairs)
    ]
    middle.append((0, 0, 0, len(triples)))
    longest = [(first, code) for code, (*_, first, _) in enumerate(triples)]
    singles = b"".join(
        struct.pack("<ffI", units(share), 0.0, sum(second < place for second, *_ in pairs))
        for place, share in enumerate((*UNIGRAMS, 1.0))
    )
    names = "".join(f"{name}\0" for name in WORDS).encode()
    path.write_bytes(
        b"Trie Language Model\3"
        + struct.pack("<4I", len(WORDS), len(pairs), len(triples), 1)
        + bins.tobytes()
        + singles
        + packed(middle, (word, 16, 16, follow))
        + packed(longest, (word, 16))
        + struct.pack("<I", len(names))
        + names
    )
    return path


def test_a_file_says_what_was_written(tmp_path: Path) -> None:
    model = read_trigrams(written(tmp_path / "a.lm.bin"))
    assert tuple(model.words) == WORDS
    np.testing.assert_allclose(model.unigrams, UNIGRAMS, rtol=1e-3)
    size = len(WORDS)
    names = [(WORDS[key // size], WORDS[key % size]) for key in model.pairs.tolist()]
    assert dict(zip(names, model.pair_shares, strict=True)) == pytest.approx(PAIRS, rel=1e-3)
    assert sorted(model.pairs) == model.pairs.tolist()
    triples = [(*names[key // size], WORDS[key % size]) for key in model.triples.tolist()]
    assert dict(zip(triples, model.triple_shares, strict=True)) == pytest.approx(TRIPLES, rel=1e-3)


def test_words_are_drawn_as_often_as_the_model_says(tmp_path: Path) -> None:
    drawer = Drawer(read_trigrams(written(tmp_path / "a.lm.bin")), 1)
    drawn = list(drawer.sentences(20_000, 100))
    begun = Counter(tuple(line.split()[:2]) for line in drawn if line.split()[:1] == ["the"])
    the = sum(count for words, count in begun.items())
    # Behind "<s> the": what the pair says is taken, and the tenth that is left falls to what
    # "the" is followed by where neither "cat" nor "dog" follows.
    assert begun["the", "cat"] / the == pytest.approx(0.2, abs=0.02)
    assert begun["the", "dog"] / the == pytest.approx(0.7, abs=0.02)
    # Behind "cat" alone: 0.8 is the end, and never of what is left over.
    ends = [line for line in drawn if line.startswith("the cat")]
    assert ends.count("the cat") / len(ends) == pytest.approx(0.8, abs=0.02)
    assert not any("<s>" in line or "</s>" in line for line in drawn)


def test_what_is_drawn_follows_from_the_seed(tmp_path: Path) -> None:
    model = read_trigrams(written(tmp_path / "a.lm.bin"))
    first, again, other = (list(Drawer(model, seed).sentences(50, 12)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert max(len(line.split()) for line in first) <= 12


def test_the_model_of_the_package_reads_as_the_package_reads_it() -> None:
    sphinx = pytest.importorskip("pocketsphinx", reason="the extra [reference] is not installed")
    model = read_trigrams(packaged())
    theirs = sphinx.NGramModel.readfile(str(packaged()))
    size, places = len(model.words), np.random.default_rng(1).integers(0, len(model.triples), 50)
    for place in places.tolist():
        pair, third = divmod(int(model.triples[place]), size)
        first, second = divmod(int(model.pairs[pair]), size)
        words = [model.words[each] for each in (third, second, first)]
        share = np.log(model.triple_shares[place]) / np.log(1.0001)
        assert theirs.prob(words) == pytest.approx(share, abs=2.0), words


@pytest.mark.parametrize("data", [b"", b"Trie Language Model\2", b"\\data\\"])
def test_something_else_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.lm.bin"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="trigrams"):
        read_trigrams(path)
    with pytest.raises(ConfigError, match="trigrams"):
        read_trigrams(tmp_path / "nowhere")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ModelError, match=r"diffscribe\[reference\]"):
        packaged()
