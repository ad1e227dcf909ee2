"""Read an adapter whose key names are not known: the ``.pt`` file of the published model.

Its layout is not public. What is known of it are shapes: three strided convolutions and one or
two linear layers, and LoRA beside the attention of encoder and decoder. So tensors are placed by
shape and by what of their names PEFT gives them; one that finds no place is named and the file
refused, rather than a model run with a part of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stream_server.errors import ModelError
from stream_server.recogniser.backbone import SIDES
from stream_server.recogniser.projector import ProjectorConfig
from stream_server.recogniser.published import LoraShape

_LORA = re.compile(
    r"(?P<place>.*?)layers\.(?P<layer>\d+)\.(?P<module>.+?)\.lora_?(?P<half>[ABab])(\.\w+)*$"
)
_HALVINGS = 3
"""Convolutions of stride 2 in the published projector: 1500 states become 188 tokens."""
_TRAINING = re.compile(r"(^|\.)(optim\w*|sched\w*|scaler|rng\w*)(\.|$)")
"""State of a training run, which is not part of a model."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor and where it went."""

    source: str
    """Key in the file."""
    target: str
    """Name in ``PublishedModel.trained()``."""
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file turned out to hold."""

    projector: ProjectorConfig
    lora: LoraShape
    placed: tuple[Placed, ...]
    notes: tuple[str, ...]
    """What was assumed or passed over."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """Tensors by their names in ``PublishedModel.trained()``."""
        return {each.target: each.tensor for each in self.placed}

    def table(self) -> str:
        """Return what went where, layers of a kind on one line."""
        rows: dict[tuple[str, str, tuple[int, ...]], int] = {}
        for each in self.placed:
            source, target = (
                re.sub(r"layers\.\d+", "layers.*", name) for name in (each.source, each.target)
            )
            key = (source, target, tuple(each.tensor.shape))
            rows[key] = rows.get(key, 0) + 1
        width = max(len(source) for source, _, _ in rows)
        lines = [
            f"{source:{width}}  {count:3d} x {list(shape)!s:18} -> {target}"
            for (source, target, shape), count in rows.items()
        ]
        return "\n".join([*lines, *self.notes])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a ``.pt`` file without running what is in it.

    Returns:
        Its tensors and its other values, nested names joined by dots.

    Raises:
        ModelError: it holds more than plain values, or cannot be read.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # On what is not of its own making it raises nearly anything.
        raise ModelError(
            f"{path} cannot be read as tensors and plain values: {repr(error)[:200]}"
        ) from error
    flat = dict(_flatten(document, ""))
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def import_adapter(
    path: Path, linears: Mapping[str, tuple[int, int]], sizes: tuple[int, int]
) -> Imported:
    """Find out what a ``.pt`` file holds, and name it as ``PublishedModel`` does.

    Args:
        path: the file.
        linears: ``Backbone.linears()``: what LoRA may stand beside.
        sizes: width of the audio encoder and of the backbone.

    Raises:
        ModelError: with every tensor that found no place.
    """
    tensors, values = read_tensors(path)
    passed = [name for name in tensors if _TRAINING.search(name)]
    tensors = {name: t for name, t in tensors.items() if name not in passed}
    problems: list[str] = []
    adapters, rest = _place_lora(tensors, linears, problems)
    lora, notes = _lora_shape(adapters, values, problems)
    projector, layers, zeros = _place_projector(rest, sizes, problems)
    if problems:
        raise ModelError(f"{path} does not fit: {'; '.join(problems)}")
    if passed:
        notes.append(f"passed over, of training: {len(passed)} tensors")
    if zeros:
        notes.append(f"not in the file, taken as zero: {', '.join(zeros)}")
    return Imported(projector, lora, (*layers, *adapters), tuple(notes))


def _place_lora(
    tensors: Mapping[str, Tensor], linears: Mapping[str, tuple[int, int]], problems: list[str]
) -> tuple[list[Placed], dict[str, Tensor]]:
    """Return LoRA's tensors in their places, and all others."""
    placed, rest = [], {}
    for name, tensor in tensors.items():
        match = _LORA.match(name)
        if match is None:
            rest[name] = tensor
            continue
        said = re.findall("encoder|decoder|language_model", match["place"])
        # The causal stack is also known by its name within the encoder.
        side = said[-1].replace("language_model", "encoder") if said else "(no side)"
        start = f"{side}.layers.{match['layer']}."
        module = match["module"].removesuffix(".base_layer")
        homes = [
            home for home in linears if home.startswith(start) and f".{home}".endswith(f".{module}")
        ]
        if len(homes) != 1:
            problems.append(f"{name} {list(tensor.shape)} has no place")
            continue
        half = match["half"].upper()
        axis = 1 if half == "A" else 0
        wanted = linears[homes[0]][axis]
        if tensor.ndim == 2 and tensor.shape[axis] != wanted and tensor.shape[1 - axis] == wanted:
            tensor = tensor.T.contiguous()
        if tensor.ndim != 2 or tensor.shape[axis] != wanted:
            problems.append(f"{name} is {list(tensor.shape)}, beside a layer of {wanted}")
            continue
        placed.append(Placed(name, f"lora.{homes[0]}.lora_{half}.weight", tensor))
    return placed, rest


def _lora_shape(
    placed: Sequence[Placed], values: Mapping[str, Any], problems: list[str]
) -> tuple[LoraShape, list[str]]:
    """Return the adapters' shape as their tensors and the file's other values tell it."""
    if not placed:
        problems.append("no LoRA tensors (layers.N.MODULE.lora_A) in the file")
        return LoraShape(), []
    ranks = {each.tensor.shape["lora_B" in each.target] for each in placed}
    if len(ranks) > 1:
        problems.append(f"LoRA of several ranks: {sorted(ranks)}")
    twice = len(placed) - len({each.target for each in placed})
    if twice:
        problems.append(f"{twice} LoRA tensors have the same place")
    names = [each.target.split(".") for each in placed]
    modules = sorted({".".join(parts[4:-2]) for parts in names})
    sides = tuple(side for side in SIDES if side in {parts[1] for parts in names})
    rank = min(ranks)
    notes = []
    alpha = next(
        (
            float(value)
            for name, value in values.items()
            if name.rpartition(".")[2] in ("alpha", "lora_alpha") and isinstance(value, int | float)
        ),
        None,
    )
    if alpha is None:
        alpha = 2.0 * rank
        notes.append(
            f"alpha of LoRA is not in the file: taken as twice its rank, {alpha:g}; "
            f'if it is another, say so in diffscribe.json beside it: {{"lora": {{"alpha": N}}}}'
        )
    targets = "|".join(re.escape(module) for module in modules)
    return LoraShape(rank=rank, alpha=alpha, targets=targets, sides=sides), notes


def _place_projector(
    tensors: Mapping[str, Tensor], sizes: tuple[int, int], problems: list[str]
) -> tuple[ProjectorConfig, list[Placed], list[str]]:
    """Return the projector's shape, its tensors in their places, and biases that are absent."""
    ordered = sorted(tensors, key=_natural)
    convolutions = [name for name in ordered if tensors[name].ndim == 3]
    linears = [name for name in ordered if tensors[name].ndim == 2]
    chain = [*convolutions, *linears]
    config = _projector_config([tensors[name] for name in chain], len(convolutions), sizes)
    if config is None:
        seen = ", ".join(f"{name} {list(tensors[name].shape)}" for name in chain) or "nothing"
        problems.append(
            f"wanted {_HALVINGS} convolutions from {sizes[0]} channels and one or two linear "
            f"layers to {sizes[1]}, found {seen}"
        )
        return ProjectorConfig(sizes[0], sizes[1], sizes[1]), [], []
    homes = [f"convolutions.{index}" for index in range(len(convolutions))]
    homes += ["inner", "linear"] if len(linears) == 2 else ["linear"]
    placed, zeros, used = [], [], set(chain)
    for name, home in zip(chain, homes, strict=True):
        placed.append(Placed(name, f"projector.{home}.weight", tensors[name]))
        bias = re.sub(r"weight$", "bias", name)
        if bias != name and bias in tensors:
            used.add(bias)
            placed.append(Placed(bias, f"projector.{home}.bias", tensors[bias]))
        else:
            zero = torch.zeros(tensors[name].shape[0])
            zeros.append(f"projector.{home}.bias")
            placed.append(Placed("(zero)", f"projector.{home}.bias", zero))
    problems += [
        f"{name} {list(tensors[name].shape)} has no place" for name in ordered if name not in used
    ]
    return config, placed, zeros


def _projector_config(
    chain: Sequence[Tensor], halvings: int, sizes: tuple[int, int]
) -> ProjectorConfig | None:
    """Return the shape of a chain of layers, if it is one from the first size to the last."""
    if halvings != _HALVINGS or len(chain) - halvings not in (1, 2):
        return None
    inputs = [layer.shape[1] for layer in chain]
    outputs = [layer.shape[0] for layer in chain]
    kernels = {layer.shape[2] for layer in chain[:halvings]}
    widths = set(outputs[:halvings])
    if len(kernels) > 1 or len(widths) > 1 or min(kernels) % 2 == 0:
        return None
    if inputs != [sizes[0], *outputs[:-1]] or outputs[-1] != sizes[1]:
        return None
    hidden = outputs[-2] if len(chain) - halvings == 2 else 0
    return ProjectorConfig(
        input_size=sizes[0],
        width=min(widths),
        output_size=sizes[1],
        halvings=halvings,
        kernel=min(kernels),
        hidden=hidden,
    )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


__all__ = ["Imported", "Placed", "import_adapter", "read_tensors"]
