"""How long a decode takes: ours and stock transformers in the same run, the floor beside both.

A decode is a prompt and some denoising steps. Stock is what transformers' ``generate`` does in a
step (decoder, head, soft cap, softmax, multinomial, two entropies), with its ``grouped_mm``.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from stream_server.recogniser.denoise import accept
from stream_server.recogniser.denoiser import Denoiser
from stream_server.recogniser.graphs import Graphs
from stream_server.recogniser.quantise import Float8
from stream_server.recogniser.stack import Layer, Stack


@dataclass(frozen=True, slots=True)
class Shape:
    """What is decoded at a time."""

    rows: int
    canvas: int
    prompt: int

    @staticmethod
    def parse(text: str) -> Shape:
        """Read ``ROWSxCANVAS`` or ``ROWSxCANVASxPROMPT``; a prompt is else that of 10 s."""
        numbers = [int(each) for each in text.split("x")]
        if len(numbers) == 2:
            numbers.append(210 if numbers[1] >= 128 else 85)
        return Shape(*numbers)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.rows}x{self.canvas}"


@dataclass(slots=True)
class Result:
    """One shape's figures, in milliseconds; none where it was not or could not be measured."""

    shape: Shape
    steps: int
    floor_step: float | None = None
    floor_total: float | None = None
    experts: float | None = None
    """Different experts of a layer that a step's tokens chose, counted, mean over the layers."""
    experts_expected: float | None = None
    """The same, if every token chose evenly and on its own."""
    stock_prefill: float | None = None
    stock_step: float | None = None
    stock_total: float | None = None
    prefill: float | None = None
    eager_step: float | None = None
    step: float | None = None
    total: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def per_segment(self) -> float | None:
        """Of ours."""
        return None if self.total is None else self.total / self.shape.rows

    @property
    def stock_per_segment(self) -> float | None:
        """Of stock transformers."""
        return None if self.stock_total is None else self.stock_total / self.shape.rows

    @property
    def floor_per_segment(self) -> float | None:
        """Of any."""
        return None if self.floor_total is None else self.floor_total / self.shape.rows

    def to_json(self) -> dict[str, Any]:
        """Return plain types."""
        return {**asdict(self), "per_segment": self.per_segment}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine can do at most, measured."""

    bytes_per_ms: float
    operations_per_ms: float


class Clock:
    """Times calls on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def median(self, call: Callable[[], object], repeat: int = 5, warm_ups: int = 2) -> float:
        """Return the median milliseconds of a call, its end awaited."""
        for _ in range(warm_ups):
            call()
        times = []
        for _ in range(repeat):
            self.wait()
            begin = time.perf_counter()
            call()
            self.wait()
            times.append((time.perf_counter() - begin) * 1000)
        return statistics.median(times)


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure memory bandwidth and the rate of a large product."""
    clock = Clock(device)
    large = device.type == "cuda"
    source = torch.empty(1 << (31 if large else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() / clock.median(lambda: target.copy_(source))
    size = 8192 if large else 512
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    done = 2 * size**3 / clock.median(lambda: left @ right)
    return Ceilings(moved, done)


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass over the layers has to do."""

    rows: int
    tokens: int
    """Of all rows."""
    keys: int
    """Of a row."""
    experts: tuple[int, ...]
    """Different experts that the tokens of each layer chose, counted."""
    with_vocabulary: bool


def expected_experts(tokens: int, choices: int, experts: int) -> float:
    """Return how many experts ``tokens`` choose if each chooses evenly and on its own."""
    return experts * (1 - (1 - choices / experts) ** tokens)


@contextlib.contextmanager
def counting_experts(stack: Stack) -> Iterator[list[int]]:
    """Give a list to which each layer that is run adds how many experts its tokens chose."""
    counts: list[int] = []
    usual = stack.kernels

    def route(*arguments: Any) -> tuple[Tensor, Tensor]:
        chosen, shares = usual.route(*arguments)
        counts.append(len(torch.bincount(chosen.flatten().long()).nonzero()))
        return chosen, shares

    stack.kernels = replace(usual, route=route)
    try:
        yield counts
    finally:
        stack.kernels = usual


def floor_ms(denoiser: Denoiser, work: Work, limits: Ceilings) -> float:
    """Return the least milliseconds: the larger of bytes and operations.

    Every weight is read once (the embedding twice: head and self-conditioning), and the experts
    that the run itself chose; scores are written once and read once.
    """
    size = denoiser.embedding.element_size()
    moved = operations = 0.0
    for layer, read in zip(denoiser.stack.layers, work.experts, strict=True):
        experts_in, experts_out = _both(layer)
        products = (layer.qkv, layer.output, layer.gate_up, layer.down)
        parts = [each.stored for each in products]
        dense = sum(each.numel() for each in parts)
        one = (experts_in.numel() + experts_out.numel()) / layer.expert_scale.shape[0]
        cache = 2 * work.rows * work.keys * layer.groups * layer.size
        moved += sum(each.numel() * each.element_size() for each in parts) + cache * size
        moved += read * one * experts_in.element_size()
        operations += 2 * work.tokens * (dense + layer.choices * one)
        operations += 4 * work.tokens * work.keys * layer.heads * layer.size
    if work.with_vocabulary:
        words = denoiser.embedding.numel()
        passes = 1 if denoiser.top else 2
        moved += passes * words * size + 2 * work.tokens * denoiser.vocabulary * size
        operations += passes * 2 * work.tokens * words
    return max(moved / limits.bytes_per_ms, operations / limits.operations_per_ms)


def _both(layer: Layer) -> tuple[Tensor, Tensor]:
    first, second = layer.experts_in, layer.experts_out
    return (
        first.values if isinstance(first, Float8) else first,
        second.values if isinstance(second, Float8) else second,
    )


def scores_of(denoiser: Denoiser, shape: Shape, seed: int = 0) -> Tensor:
    """Return our scores of a first step, float32: to compare a change of the weights."""
    embeddings, canvas = _inputs(denoiser, shape, seed)
    ours = Ours(denoiser, shape, embeddings, canvas, False)
    ours.prefill()
    slots = torch.arange(shape.rows, device=canvas.device)
    return denoiser.scores(*denoiser.units(slots, shape.canvas)).float()


def stock_scores(model: Any, denoiser: Denoiser, shape: Shape, seed: int = 0) -> Tensor:
    """Return transformers' scores of a first step on the same inputs, float32.

    Args:
        model: transformers'.
        denoiser: of the same weights: says precision, device and vocabulary.
        shape: what is decoded.
        seed: of the inputs.
    """
    embeddings, canvas = _inputs(denoiser, shape, seed)
    stock = Stock(model, embeddings, canvas, denoiser.sampler)
    stock.prefill()
    return stock.scores().float().view(shape.rows * shape.canvas, -1)


def difference(out: Tensor, reference: Tensor) -> dict[str, float]:
    """Return the relative error, and how often the arg-max is the same."""
    same = (out.argmax(-1) == reference.argmax(-1)).float().mean()
    return {"scores": _error(out, reference), "argmax_same": float(same)}


class Stock:
    """transformers' own step on one shape."""

    def __init__(self, model: Any, embeddings: Tensor, canvas: Tensor, sampler: Any) -> None:
        from transformers import DynamicCache

        self._new_cache = DynamicCache
        self._model = model
        self._embeddings = embeddings
        self._canvas = canvas
        self._sampler = sampler
        self._past: Any = None
        self._logits: Tensor | None = None

    def prefill(self) -> None:
        """Write the prompt's cache."""
        count = self._embeddings.shape[1]
        ones = torch.ones(count, count, dtype=torch.bool, device=self._embeddings.device)
        mask = ones.tril()[None, None]
        self._past = self._model.model.encoder.language_model(
            inputs_embeds=self._embeddings,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            past_key_values=self._new_cache(),
        ).past_key_values
        self._logits = None

    def scores(self) -> Tensor:
        """Return the head's output for the present canvas, before the soft cap."""
        hidden = self._model.model.decoder(
            decoder_input_ids=self._canvas,
            past_key_values=self._past,
            self_conditioning_logits=self._logits,
            decoder_attention_mask={"full_attention": None, "sliding_attention": None},
        ).last_hidden_state
        scores: Tensor = self._model.lm_head(hidden)
        return scores

    def step(self, done: int, steps: int) -> None:
        """Run one step as ``generate`` does."""
        scores = self.scores()
        cap = float(self._model.final_logit_softcapping)
        scaled = torch.tanh(scores.float() / cap) * cap
        config = self._sampler
        scaled = scaled / (config.t_min + (config.t_max - config.t_min) * (steps - done) / steps)
        flat = scaled.softmax(dim=-1).view(-1, scaled.shape[-1])
        sampled = torch.multinomial(flat, 1).view(scaled.shape[:-1])
        scaled.argmax(dim=-1)
        entropy: Tensor = torch.distributions.Categorical(logits=scaled).entropy()  # type: ignore[no-untyped-call]
        kept = accept(entropy, torch.ones_like(entropy, dtype=torch.bool), config.entropy_bound)
        # That of its stopping criterion.
        torch.distributions.Categorical(logits=scaled).entropy()  # type: ignore[no-untyped-call]
        fresh = torch.randint_like(sampled, scaled.shape[-1])
        self._canvas = torch.where(kept, sampled, fresh)
        self._logits = scaled.to(scores.dtype)


class Ours:
    """Our step on one shape, with or without CUDA graphs."""

    def __init__(
        self, denoiser: Denoiser, shape: Shape, embeddings: Tensor, canvas: Tensor, graphed: bool
    ) -> None:
        device = canvas.device
        self._denoiser, self._shape = denoiser, shape
        self._embeddings, self._start = embeddings, canvas
        self._slots = torch.arange(shape.rows, device=device)
        self._units = denoiser.units(self._slots, shape.canvas)
        self._lengths = torch.full((shape.rows,), shape.prompt, device=device)
        self._graphs: Graphs[Any] | None = Graphs(device) if graphed else None
        self.begin(8)
        if self._graphs is not None:
            inputs = (embeddings, self._lengths, self._slots)
            self._graphs.record("prefill", denoiser.prefill, inputs)
            self._graphs.record("step", denoiser.step, self._units)

    def begin(self, steps: int) -> None:
        """Lay out fresh canvases."""
        state, slots = self._denoiser.slots, self._slots
        state.prompts[slots] = self._shape.prompt
        state.widths[slots] = self._shape.canvas
        state.canvas[slots, : self._shape.canvas] = self._start
        state.soft[slots] = 0
        state.seeds[slots] = slots
        self._left = self._steps = steps

    def prefill(self) -> None:
        """Write the prompts' keys and values."""
        if self._graphs is None:
            self._denoiser.prefill(self._embeddings, self._lengths, self._slots)
        else:
            self._graphs.replay("prefill", (self._embeddings, self._lengths, self._slots))

    def step(self) -> Any:
        """Run one step; temperature and noise are set from outside, as a server does."""
        state, config = self._denoiser.slots, self._denoiser.sampler
        state.heat.fill_(config.t_min + (config.t_max - config.t_min) * self._left / self._steps)
        state.seeds.add_(1)
        self._left = max(1, self._left - 1)
        if self._graphs is None:
            return self._denoiser.step(*self._units)
        return self._graphs.replay("step", self._units)

    def decode(self, steps: int) -> None:
        """Decode as a server does: read every step's result."""
        self.begin(steps)
        self.prefill()
        for _ in range(steps):
            self.step().argmax.cpu()


def compare(model: Any, denoiser: Denoiser, shape: Shape, seed: int = 0) -> dict[str, float]:
    """Return relative errors of the scores of one step, ours and stock's own, against stock.

    Stock's own error is that of its eager experts against ``grouped_mm``: the same arithmetic in
    another order, so what bfloat16 and routing alone make of it. Ours should be at most twice that.
    """
    wanted = stock_scores(model, denoiser, shape, seed)
    found = difference(scores_of(denoiser, shape, seed), wanted)
    usual = model.config.text_config._experts_implementation
    try:
        model.set_experts_implementation("eager")
        itself = difference(stock_scores(model, denoiser, shape, seed), wanted)
    finally:
        model.set_experts_implementation(usual)
    found |= {f"stock_{name}": value for name, value in itself.items()}
    return found


def _error(out: Tensor, reference: Tensor) -> float:
    return float((out - reference).norm() / reference.norm())


def _inputs(denoiser: Denoiser, shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor]:
    device, dtype = denoiser.embedding.device, denoiser.embedding.dtype
    generator = torch.Generator(device).manual_seed(seed)
    hidden = denoiser.embedding.shape[1]
    embeddings = torch.randn(
        shape.rows, shape.prompt, hidden, generator=generator, device=device
    ).to(dtype)
    canvas = torch.randint(
        denoiser.vocabulary, (shape.rows, shape.canvas), generator=generator, device=device
    )
    return embeddings, canvas


def measure(denoiser: Denoiser, result: Result, limits: Ceilings) -> None:
    """Measure one shape of ours; what fails is noted.

    Args:
        denoiser: as it would serve, its weights in float8 or not.
        result: of the shape; its figures of ours are filled in.
        limits: of the machine, for the floor.
    """
    shape, steps = result.shape, result.steps
    device = denoiser.embedding.device
    clock = Clock(device)
    embeddings, canvas = _inputs(denoiser, shape)
    graphed = device.type == "cuda"
    with _noting(result, "ours", device):
        eager = Ours(denoiser, shape, embeddings, canvas, False)
        with counting_experts(denoiser.prompt_stack) as read:
            eager.prefill()
        tokens, keys = shape.rows * shape.prompt, shape.prompt
        prompt = Work(shape.rows, tokens, keys, tuple(read), False)
        with counting_experts(denoiser.stack) as read:
            eager.step()
        tokens, keys = shape.rows * shape.canvas, keys + shape.canvas
        step = Work(shape.rows, tokens, keys, tuple(read), True)
        layer = denoiser.stack.layers[0]
        result.experts = statistics.mean(read)
        result.experts_expected = expected_experts(
            tokens, layer.choices, layer.expert_scale.shape[0]
        )
        result.floor_step = floor_ms(denoiser, step, limits)
        result.floor_total = floor_ms(denoiser, prompt, limits) + steps * result.floor_step
        result.eager_step = clock.median(eager.step, 3)
        ours = Ours(denoiser, shape, embeddings, canvas, True) if graphed else eager
        result.prefill = clock.median(ours.prefill)
        result.step = clock.median(ours.step, 9)
        result.total = clock.median(lambda: ours.decode(steps), 3, 1)


def measure_stock(model: Any, denoiser: Denoiser, result: Result) -> None:
    """Measure transformers on one shape; what fails is noted.

    Args:
        model: transformers', in the precision that it has.
        denoiser: says how it is sampled, and of what vocabulary.
        result: of the shape; stock's figures are filled in.
    """
    device = denoiser.embedding.device
    clock = Clock(device)
    embeddings, canvas = _inputs(denoiser, result.shape)
    with _noting(result, "stock", device):
        stock = Stock(model, embeddings, canvas, denoiser.sampler)
        result.stock_prefill = clock.median(stock.prefill, 3, 1)
        result.stock_step = clock.median(lambda: stock.step(1, result.steps), 3)
        begin = time.perf_counter()
        stock.prefill()
        for done in range(result.steps):
            stock.step(done, result.steps)
        clock.wait()
        result.stock_total = (time.perf_counter() - begin) * 1000


@contextlib.contextmanager
def _noting(result: Result, what: str, device: torch.device) -> Iterator[None]:
    """Note what fails, and let the rest go on."""
    try:
        yield
    except Exception as error:  # Out of memory, or a kernel's compiler.
        result.problems.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
    if device.type == "cuda":
        torch.cuda.empty_cache()


def profile(denoiser: Denoiser, shape: Shape) -> list[tuple[str, float, int]]:
    """Return the kernels of one step by time: name, milliseconds, launches."""
    embeddings, canvas = _inputs(denoiser, shape)
    ours = Ours(denoiser, shape, embeddings, canvas, False)
    ours.prefill()
    ours.step()
    torch.cuda.synchronize()
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profiler:
        ours.step()
        torch.cuda.synchronize()
    found = [
        (event.key[:90], event.self_device_time_total / 1000, event.count)
        for event in profiler.key_averages()
        if event.self_device_time_total
    ]
    return sorted(found, key=lambda each: -each[1])[:25]


def table(results: list[Result]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| rows | canvas | prompt | steps | stock step | stock total | eager step | step | prefill"
        " | total | per segment | floor per segment | experts |",
        "|--:" * 13 + "|",
    ]
    for each in results:
        shape = each.shape
        figures = (
            each.stock_step, each.stock_total, each.eager_step, each.step, each.prefill,
            each.total, each.per_segment, each.floor_per_segment, each.experts,
        )  # fmt: skip
        shown = " | ".join("-" if value is None else f"{value:.1f}" for value in figures)
        lines.append(f"| {shape.rows} | {shape.canvas} | {shape.prompt} | {each.steps} | {shown} |")
        lines += [f"  {problem}" for problem in each.problems]
    return "\n".join(lines)


__all__ = [
    "Ceilings",
    "Clock",
    "Ours",
    "Result",
    "Shape",
    "Stock",
    "Work",
    "compare",
    "counting_experts",
    "difference",
    "expected_experts",
    "floor_ms",
    "measure",
    "measure_ceilings",
    "measure_stock",
    "profile",
    "scores_of",
    "stock_scores",
    "table",
]
