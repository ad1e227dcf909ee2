"""The model on the device decodes as the plain one does, whoever shares the step."""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_server.config import RecogniserConfig
from stream_server.errors import ModelError, Overloaded
from stream_server.evaluation.random_server import NumberCodec
from stream_server.recogniser.backbone import Backbone
from stream_server.recogniser.decoder import PromptCache
from stream_server.recogniser.denoise import SamplerConfig, StepInput, StepResult, random_tokens
from stream_server.recogniser.device_model import (
    SPARE,
    DeviceModel,
    speed_up,
)
from stream_server.recogniser.encoder import WhisperAudioEncoder
from stream_server.recogniser.interface import Hypothesis, Utterance, run_to_end
from stream_server.recogniser.kernels.choice import fused_kernels, plain_kernels
from stream_server.recogniser.memory import fetch
from stream_server.recogniser.model import CanvasConfig
from stream_server.recogniser.network import Keeper
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import LoraShape, PublishedConfig, PublishedModel
from stream_server.recogniser.recogniser import DiffusionRecogniser

CPU = torch.device("cpu")
WHISPER = {
    "d_model": 24,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "num_mel_bins": 80,
}
PROMPTS = [([2, 9], [11, 12, 13]), ([2, 9], [14])]
ROWS = 4


@pytest.fixture
def model(published_folders: Any) -> PublishedModel:
    """With adapters that matter, of every layer that may have one."""
    config = PublishedConfig(
        "toy",
        ProjectorConfig(24, 20, 32),
        LoraShape(4, 8.0, r"self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj"),
        canvas=CanvasConfig(buckets=(8, 16, 24), margin=2),
        sampler=SamplerConfig(entropy_bound=3.0),
    )
    backbone = Backbone(copy.deepcopy(published_folders.model))
    model = PublishedModel(config, WhisperAudioEncoder(WHISPER).eval(), backbone, PROMPTS).eval()
    for parameter in model.decoder.lora().values():
        parameter.data.normal_(std=0.2)
    return model


def listen(model: Any, languages: list[int]) -> PromptCache:
    pcm = torch.randn(3, 8_000, generator=torch.Generator().manual_seed(5))[: len(languages)] * 0.1
    lengths = torch.tensor([8_000, 6_000, 7_000])[: len(languages)]
    with torch.inference_mode():
        cache: PromptCache = model.hear(pcm, lengths, torch.tensor(languages))[0]
    return cache


def step(
    model: Any, cache: PromptCache, sizes: tuple[int, ...], seeds: list[int], soft: Tensor | None
) -> StepResult:
    """Run a step from the same canvases whatever their neighbours."""
    width = max(sizes)
    canvas = torch.zeros(len(sizes), width, dtype=torch.long)
    generators = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
    for row, size in enumerate(sizes):
        canvas[row, :size] = random_tokens(generators[row], size, model.vocabulary)
    before = torch.zeros(len(sizes), width, model.conditioning_size) if soft is None else soft
    heat = torch.full((len(sizes),), 0.7)
    state = StepInput(canvas, sizes, before, (soft is not None,) * len(sizes), heat, generators)
    with torch.inference_mode():
        result: StepResult = model.step(state, cache)
    return result


@pytest.mark.parametrize("sizes", [(16, 16, 16), (24, 8, 16), (5, 24, 1)])
def test_a_step_is_that_of_the_plain_model(model: PublishedModel, sizes: tuple[int, ...]) -> None:
    plain = copy.deepcopy(model)
    fast = DeviceModel(model, plain_kernels(), ROWS)
    caches = listen(plain, [0, 1, 0]), listen(fast, [0, 1, 0])
    soft = None
    for _ in range(2):
        wanted = step(plain, caches[0], sizes, [1, 2, 3], soft)
        got = step(fast, caches[1], sizes, [1, 2, 3], soft)
        for row, size in enumerate(sizes):
            part = (row, slice(size))
            assert got.argmax[part].tolist() == wanted.argmax[part].tolist()
            assert got.accepted[part].tolist() == wanted.accepted[part].tolist()
            for name in ("entropy", "probability", "conditioning"):
                torch.testing.assert_close(
                    getattr(got, name)[part], getattr(wanted, name)[part], rtol=1e-3, atol=1e-4
                )
        assert 0 < int(wanted.accepted.sum()) < sum(sizes)
        soft = wanted.conditioning


def test_it_hears_what_the_plain_model_hears(model: PublishedModel) -> None:
    """More rows than a graph of audio has."""
    plain = copy.deepcopy(model)
    fast = DeviceModel(model, plain_kernels(), ROWS)
    pcm = torch.randn(11, 40_000, generator=torch.Generator().manual_seed(5)) * 0.1
    lengths = torch.tensor([40_000 - 2_000 * row for row in range(11)])
    pcm *= torch.arange(40_000) < lengths[:, None]
    languages = torch.tensor([row % 2 for row in range(11)])
    with torch.inference_mode():
        heard = [each.hear(pcm, lengths, languages)[1] for each in (plain, fast)]
        for wanted, got in zip(*heard, strict=True):
            assert got.draft() == wanted.draft() != []
            spans = [each.align(wanted.draft()) for each in (wanted, got)]
            assert spans[0] is not None
            assert spans[1] is not None
            for one, other in zip(*spans, strict=True):
                assert (one.start, one.end) == (other.start, other.end)
                assert one.score == pytest.approx(other.score, rel=1e-3)


def test_a_row_does_not_depend_on_its_neighbours(model: PublishedModel) -> None:
    fast = DeviceModel(model, plain_kernels(), ROWS)
    cache = listen(fast, [0, 1, 0])
    together = step(fast, cache, (24, 8, 16), [1, 2, 3], None)
    for row, size in enumerate((24, 8, 16)):
        alone = step(fast, cache.row(row), (size,), [row + 1], None)
        assert together.argmax[row, :size].tolist() == alone.argmax[0, :size].tolist()
        assert together.canvas[row, :size].tolist() == alone.canvas[0, :size].tolist()


def test_more_units_than_a_graph_has_are_stepped_in_groups(model: PublishedModel) -> None:
    whole = DeviceModel(copy.deepcopy(model), plain_kernels(), ROWS)
    parts = DeviceModel(model, plain_kernels(), rows=1)  # of three units: 24, then 8 and 16
    wanted, got = (
        step(fast, listen(fast, [0, 1, 0]), (24, 8, 16), [1, 2, 3], None) for fast in (whole, parts)
    )
    for name in ("canvas", "argmax", "accepted"):
        assert getattr(got, name).tolist() == getattr(wanted, name).tolist()
    torch.testing.assert_close(got.entropy, wanted.entropy, rtol=1e-3, atol=1e-4)


def test_samples_follow_the_distribution_of_the_scores(model: PublishedModel) -> None:
    """Sampled by another method than the plain model's, from the same shares."""
    fast = DeviceModel(model, plain_kernels(), ROWS)
    cache = listen(fast, [0])
    state = fast._denoiser.slots
    slots = torch.tensor(cache.row(0).slots)  # type: ignore[attr-defined]
    state.canvas[slots, :8] = 7
    state.soft[slots] = 0
    state.widths[slots] = 8
    state.heat[slots] = 0.8
    drawn = torch.zeros(fast.vocabulary)
    with torch.inference_mode():
        scores = fast._denoiser.scores(*fast._denoiser.units(slots, 8))
        shares = ((torch.tanh(scores.float() / 30) * 30) / 0.8).softmax(-1)[0]
        for seed in range(400):
            state.seeds[slots] = seed
            uniform = fast._denoiser.kernels.read_vocabulary(
                scores[:1], torch.tensor([0.8]), torch.tensor([(seed + 0.5) / 400]), 30.0
            )
            drawn[uniform.sampled] += 1 / 400
    assert float((drawn - shares).abs().max()) < 0.01


def test_rows_that_end_leave_room(model: PublishedModel) -> None:
    fast = DeviceModel(model, plain_kernels(), ROWS)
    room = ROWS + SPARE
    held = [listen(fast, [0, 1, 0]) for _ in range(room // 3)]
    first = held[0].row(1)
    with pytest.raises(Overloaded, match="room for 0"):
        listen(fast, [0])
    held.clear()
    gc.collect()
    assert fast._leases.free == room - 1
    del first
    assert fast._leases.free == room


def test_prompts_of_another_network_are_refused(model: PublishedModel) -> None:
    plain = copy.deepcopy(model)
    fast = DeviceModel(model, plain_kernels(), ROWS)
    with pytest.raises(TypeError, match="not in slots"):
        step(fast, listen(plain, [0]), (8,), [1], None)


def test_it_stays_where_it_was_built(model: PublishedModel) -> None:
    fast = DeviceModel(model, plain_kernels(), ROWS)
    assert fast.to(CPU) is fast
    with pytest.raises(ValueError, match="cannot move"):
        fast.to(torch.device("meta"))


def test_the_cpu_keeps_the_plain_model(model: PublishedModel) -> None:
    assert speed_up(model, CPU, RecogniserConfig()) is model


@pytest.mark.parametrize("option", [{"weights": "float8"}, {"conditioning_words": 32}])
def test_what_needs_fused_kernels_is_refused_without(
    model: PublishedModel, option: dict[str, Any]
) -> None:
    flag = "--" + next(iter(option)).replace("_", "-")
    with pytest.raises(ModelError, match=f"{flag} .*needs the fused kernels"):
        speed_up(model, CPU, RecogniserConfig(**option))


def test_float8_weights_leave_a_step_about_as_it_is(model: PublishedModel) -> None:
    full = DeviceModel(copy.deepcopy(model), plain_kernels(), ROWS)
    small = DeviceModel(model, plain_kernels(), ROWS)
    small.quantise()
    assert len(model.decoder.model.model.decoder.layers) == 0
    results = [
        step(each, listen(each, [0, 1, 0]), (16, 16, 16), [1, 2, 3], None) for each in (full, small)
    ]
    change = (results[1].entropy - results[0].entropy).abs()
    assert float(change.max()) > 0
    assert float(change.mean()) < 0.1


def test_few_words_of_conditioning_approximate_all(model: PublishedModel) -> None:
    softs = []
    for top in (0, model.vocabulary, 1):
        fast = DeviceModel(copy.deepcopy(model), plain_kernels(), ROWS, top)
        softs.append(step(fast, listen(fast, [0]), (16,), [1], None).conditioning)
    torch.testing.assert_close(softs[0], softs[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(softs[0], softs[2], atol=1e-2)


@dataclass
class Forgetful:
    """A device model that is asked for whole steps alone: nothing is prepared behind another."""

    inner: DeviceModel

    def begin(self, *audio: Tensor) -> Any:
        return self.inner.begin(*audio)

    def __getattr__(self, name: str) -> Any:
        if name in ("lay", "stir", "run"):
            raise AttributeError(name)
        return getattr(self.inner, name)


@pytest.mark.parametrize("stability", [0, 1, 99])
@pytest.mark.parametrize("are_endless", [False, True])
def test_what_stays_in_the_network_decodes_as_what_is_brought(
    model: PublishedModel, stability: int, are_endless: bool
) -> None:
    """Also where a text is done before its last step, and begins again on a larger canvas."""
    said = []
    for network in (
        Forgetful(DeviceModel(copy.deepcopy(model), plain_kernels(), ROWS)),
        DeviceModel(model, plain_kernels(), ROWS),
    ):
        assert isinstance(network, Keeper) is isinstance(network, DeviceModel)
        recogniser = DiffusionRecogniser(network, NumberCodec(model.vocabulary), CPU, 6)
        if are_endless:
            recogniser._tokenizer.ends = frozenset()  # type: ignore[misc]
        recogniser._sampler = SamplerConfig(3.0, stability=stability, confidence=100.0)
        chance = np.random.default_rng(4)
        rows: list[Any] = []
        told: list[list[Hypothesis]] = []
        for turn in range(40):
            if turn < 12 and len(rows) < ROWS:
                pcm = chance.normal(0, 0.1, 6_000 + 2_000 * turn).astype(np.float32)
                rows += recogniser.start([Utterance(pcm, steps=3 + turn % 4, seed=turn)])
            # Some are paused now and then.
            own = [row for row in rows if row.utterance.seed % 3 or turn % 2] or rows
            found = list(recogniser.step(own))
            told.append(found)
            gone = [row for row, each in zip(own, found, strict=True) if each.is_final]
            recogniser.release(gone)
            rows = [row for row in rows if row not in gone]
            if not rows and turn > 12:
                break
        assert not rows
        said.append(told)
    assert said[0] == said[1]
    finals = [each for found in said[0] for each in found if each.is_final]
    assert len(finals) >= 6
    if are_endless:
        longest = max(each.step for each in finals)
        assert longest == (2 if stability == 0 else 9), "a larger canvas gets half the steps again"


def transcribe(network: Any, device: torch.device, is_beside: bool) -> list[Hypothesis]:
    """Decode three utterances, which all need a larger canvas; or two of them join the first.

    Those that join do so under way, and words are found while the next step runs.
    """
    recogniser = DiffusionRecogniser(network, NumberCodec(network.vocabulary), device, 6)
    recogniser._tokenizer.ends = frozenset()  # type: ignore[misc]
    chance = np.random.default_rng(2)
    sounds = [chance.normal(0, 0.1, size).astype(np.float32) for size in (8_000, 30_000, 12_000)]
    said = [Utterance(pcm, steps=6, seed=seed) for seed, pcm in enumerate(sounds)]
    if not is_beside:
        return [run_to_end(recogniser, recogniser.start([each]))[0] for each in said]
    rows = list(recogniser.start(said[:1]))
    ended: dict[int, Hypothesis] = {}
    wordless: dict[int, Hypothesis] = {}
    steps: list[list[int]] = []
    for turn in range(20):
        if turn in (2, 3):
            rows += recogniser.start([said[turn - 1]])
        wait = recogniser.launch(rows)
        ended |= {seed: each.whole() for seed, each in wordless.items()}
        found = wait()
        steps.append([each.step for each in found])
        told = list(zip(rows, found, strict=True))
        wordless = {row.utterance.seed: each for row, each in told if each.is_final}
        recogniser.release([row for row, each in told if each.is_final])
        rows = [row for row, each in told if not each.is_final]
    assert steps[:5] == [[1], [2], [3, 0], [4, 1, 0], [5, 2, 1]], "who is heard steps a turn later"
    return [ended[index] for index in range(3)]


def same(one: list[Hypothesis], other: list[Hypothesis]) -> bool:
    return [(each.tokens, each.words) for each in one] == [
        (each.tokens, each.words) for each in other
    ]


def test_listening_beside_a_step_changes_nothing(model: PublishedModel) -> None:
    fast = DeviceModel(model, plain_kernels(), ROWS)
    apart, beside = (transcribe(fast, CPU, each) for each in (False, True))
    assert same(apart, beside)
    assert all(each.tokens and each.words for each in apart)
    assert [each.step for each in apart] == [9, 9, 9], "on a larger canvas half the steps again"
    gc.collect()
    assert fast._leases.free == ROWS + SPARE


def test_who_goes_leaves_its_slot_though_others_were_heard_with_it(model: PublishedModel) -> None:
    fast = DeviceModel(model, plain_kernels(), ROWS)
    recogniser = DiffusionRecogniser(fast, NumberCodec(fast.vocabulary), CPU, 6)
    pcm = np.random.default_rng(2).normal(0, 0.1, 8_000).astype(np.float32)
    rows = list(recogniser.start([Utterance(pcm, steps=6, seed=each) for each in range(3)]))
    assert fast._leases.free == ROWS + SPARE, "there is a step to launch first"
    assert [row.ctc.draft() for row in rows] != [[]] * 3
    assert fast._leases.free == ROWS + SPARE - 3
    recogniser.step(rows)
    recogniser.release(rows[:2])
    del rows[:2]
    gc.collect()
    recogniser.step(rows)
    assert fast._leases.free == ROWS + SPARE - 1


def test_words_that_are_still_to_come_hold_no_slot(model: PublishedModel) -> None:
    fast = DeviceModel(model, plain_kernels(), ROWS)
    recogniser = DiffusionRecogniser(fast, NumberCodec(fast.vocabulary), CPU, 6)
    pcm = np.random.default_rng(2).normal(0, 0.1, 8_000).astype(np.float32)
    wanted = run_to_end(recogniser, recogniser.start([Utterance(pcm, steps=1, seed=3)]))[0]
    rows = recogniser.start([Utterance(pcm, steps=1, seed=3)])
    (found,) = recogniser.launch(rows)()
    while not found.is_final:
        (found,) = recogniser.launch(rows)()
    recogniser.release(rows)
    del rows
    gc.collect()
    assert fast._leases.free == ROWS + SPARE
    assert (found.words, wanted.words != ()) == ((), True)
    assert found.whole() == wanted


def test_a_new_row_joins_the_step_after_the_one_that_runs(model: PublishedModel) -> None:
    """What is listened to begins behind the launch, and what it says is there with the step."""
    fast = DeviceModel(model, plain_kernels(), ROWS)
    recogniser = DiffusionRecogniser(fast, NumberCodec(fast.vocabulary), CPU, 6)
    calls: list[str] = []
    begin, run = fast.begin, fast.run
    fast.begin = lambda *audio: (calls.append("listen"), begin(*audio))[1]  # type: ignore[method-assign, func-returns-value]
    fast.run = lambda *state: (calls.append("step"), run(*state))[1]  # type: ignore[method-assign, func-returns-value]
    pcm = np.random.default_rng(2).normal(0, 0.1, 8_000).astype(np.float32)
    rows = list(recogniser.start([Utterance(pcm, steps=6)]))
    recogniser.step(rows)
    assert calls == ["listen", "step"], "with nobody else it is stepped at once"
    calls.clear()
    rows += recogniser.start([Utterance(pcm, steps=6, seed=1)])
    wait = recogniser.launch(rows)
    assert calls == ["step"]
    assert [each.step for each in wait()] == [2, 0]
    assert calls == ["step", "listen"]
    assert [each.step for each in recogniser.step(rows)] == [3, 1]


def to_gpu(model: PublishedModel) -> torch.device:
    """Move a model as one is loaded: features and projector stay in float32."""
    device = torch.device("cuda")
    model.to(device, torch.bfloat16)
    model.projector.float()
    model.features.float()
    return device


@pytest.mark.gpu
def test_listening_beside_a_step_on_a_gpu(model: PublishedModel) -> None:
    """With graphs on two streams, over and over: what one writes the other must not see.

    Compared with one stream and the same company: another company means products of other sizes,
    which are rounded otherwise.
    """
    device = to_gpu(model)
    fast, serial = (DeviceModel(model, fused_kernels(), ROWS) for _ in range(2))
    fast.warm()
    serial._ear = None
    wanted = transcribe(serial, device, True)
    for _ in range(20):
        assert same(transcribe(fast, device, True), wanted)


@pytest.mark.gpu
def test_neither_listening_nor_a_step_waits_for_the_device(model: PublishedModel) -> None:
    device = to_gpu(model)
    fast = DeviceModel(model, fused_kernels(), ROWS)
    fast.warm()
    sound = torch.zeros(2, 8_000), torch.tensor([8_000, 6_000])
    said = torch.tensor([0, 1])
    generators = tuple(torch.Generator(device).manual_seed(row) for row in range(2))
    canvas = torch.full((2, 16), 7, device=device)
    soft = torch.zeros(2, 16, fast.conditioning_size, device=device)
    heat = torch.full((2,), 0.8, device=device)
    state = StepInput(canvas, (16, 8), soft, (False,) * 2, heat, generators)
    cuda: Any = torch.cuda  # some of it is not typed
    slept = cuda.Event()

    def sleep() -> None:
        cuda._sleep(10**9)  # cycles: half a second
        slept.record()

    with torch.inference_mode():
        cache, frames = fast.hear(*sound, said)
        for _ in range(2):  # the first time memory is asked for, and that may wait
            with torch.cuda.stream(fast._ear):
                sleep()
            finish = fast.begin(*sound, said)
            is_begun = not slept.query()
            finish()
            assert slept.query()
            sleep()
            result = fast.step(state, cache)
            is_launched = not slept.query()
            torch.cuda.synchronize()
            # Neither what it told, nor listening, nor words wait for what is launched behind it.
            result = fast.step(state, cache)
            wait = fetch([result.argmax])
            sleep()
            wait()
            fast.begin(*sound, said)()
            spans = frames[0].align([5, 6])
            is_beside = not slept.query()
            torch.cuda.synchronize()
    assert spans
    assert is_begun
    assert is_launched
    assert is_beside


@pytest.mark.gpu
@pytest.mark.parametrize("is_float8", [False, True])
def test_graphs_decode_as_the_eager_step_does(model: PublishedModel, is_float8: bool) -> None:
    device = to_gpu(model)
    seen: list[tuple[int, int]] = []
    fast = DeviceModel(model, fused_kernels(), ROWS)
    eager = DeviceModel(model, fused_kernels(), ROWS)
    if is_float8:
        fast.quantise()
        eager.quantise()
    fast.warm(lambda _, done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    results, drafts = [], []
    for each in (fast, eager):
        pcm = torch.randn(3, 8_000, generator=torch.Generator().manual_seed(5)).to(device)
        lengths = torch.tensor([8_000] * 3, device=device)
        generators = tuple(torch.Generator(device).manual_seed(row) for row in range(3))
        canvas = torch.full((3, 16), 7, device=device)
        with torch.inference_mode():
            cache, frames = each.hear(pcm, lengths, torch.tensor([0, 1, 0], device=device))
            drafts.append([every.draft() for every in frames])
            soft = torch.zeros(3, 16, each.conditioning_size, device=device)
            heat = torch.full((3,), 0.8, device=device)
            state = StepInput(canvas, (16, 8, 16), soft, (False,) * 3, heat, generators)
            results.append(each.step(state, cache))
    assert results[0].canvas.tolist() == results[1].canvas.tolist()
    assert results[0].argmax.tolist() == results[1].argmax.tolist()
    assert drafts[0] == drafts[1]
