"""Read the weights out of Kokoro's int8 ONNX export, under the names that its modules have.

Quantisation folded some names away: a weight is known by the module that the node belongs to
which uses it. The package ``onnx`` reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_server.errors import ConfigError

_Array = npt.NDArray[Any]
_MIXER = "onnx::MatMul_6993"
"""The one weight whose node's name tells nothing: of the harmonics' mixing layer."""


class _Graph:
    """Constants of an export, dequantised as they are asked for."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
        except ImportError as error:
            remedy = "the package: pip install 'diffscribe[voices]'"
            raise ConfigError("onnx", "missing", remedy) from error

        graph = onnx.load(str(path)).graph
        self.nodes = graph.node
        self.constants: dict[str, _Array] = {
            each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer
        }
        self._zeros = dict(self._find_zeros())
        self._real: dict[str, _Array] = {}

    def _find_zeros(self) -> Iterator[tuple[str, _Array]]:
        for node in self.nodes:
            names = list(node.input)
            pairs: list[tuple[int, int]] = []
            if node.op_type in ("ConvInteger", "MatMulInteger"):
                pairs = [(1, 3)]
            elif node.op_type == "DynamicQuantizeLSTM":
                pairs = [(1, 9), (2, 11)]
            elif node.op_type == "DequantizeLinear":
                pairs = [(0, 2)]
            for weight, zero in pairs:
                if len(names) > zero and names[zero] in self.constants:
                    yield names[weight], self.constants[names[zero]]

    def weight(self, name: str) -> _Array:
        """Return a constant as real numbers."""
        # Layers share weights, and most have both a name of their own and a node that uses them.
        if name not in self._real:
            self._real[name] = self._dequantised(name)
        return self._real[name]

    def _dequantised(self, name: str) -> _Array:
        values = self.constants[name]
        if not name.endswith("_quantized"):
            return values
        base = name.removesuffix("_quantized")
        scale = self.constants[f"{base}_scale"].astype(np.float32)
        zero = self._zeros.get(name, self.constants.get(f"{base}_zero_point", np.zeros(1)))
        zero = zero.astype(np.float32)
        values = values.astype(np.float32)
        if scale.size == 1:
            return (values - zero.reshape(())) * scale.reshape(())
        if scale.ndim == 2:  # of an LSTM: both directions, each column
            return (values - zero[:, None]) * scale[:, None]
        if values.ndim == 2:  # of a matrix product: each column
            return (values - zero[None]) * scale[None]
        shape = (-1, *[1] * (values.ndim - 1))  # of a convolution: each channel
        return (values - zero.reshape(shape)) * scale.reshape(shape)


def _module(node: str) -> str:
    """Return the name of the module that a node was exported from."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part  # "cnn.0" and "cnn.0.0": the whole name is the last
        else:
            parts.append(part)
    if parts[0] == "decoder":
        parts = ["decoder", *parts[2:]]
    elif parts[0] == "encoder":
        parts = parts[1:]
        if re.match(r"(F0|N)(\.|_proj)|shared$", parts[0]):
            parts = ["predictor", *parts]
    return ".".join(parts)


def _gates(values: _Array) -> _Array:
    """Bring an LSTM's gates from ONNX's order (i, o, f, c) to torch's (i, f, c, o)."""
    first, output, forget, cell = np.split(values, 4, 0)
    return np.concatenate([first, forget, cell, output], 0)


def _recurrent(graph: _Graph, node: Any) -> Iterator[tuple[str, _Array]]:
    """Return the weights of a bidirectional LSTM."""
    module = _module(node.name)
    ways = [graph.weight(node.input[1]), graph.weight(node.input[2])]
    biases = graph.constants[node.input[3]]
    for place, suffix in enumerate(("", "_reverse")):
        halves = np.split(biases[place], 2)
        for kind, way, bias in zip(("ih", "hh"), ways, halves, strict=True):
            yield f"{module}.weight_{kind}_l0{suffix}", _gates(way[place].T)
            yield f"{module}.bias_{kind}_l0{suffix}", _gates(bias)


def _used(graph: _Graph) -> Iterator[tuple[str, _Array]]:
    """Return the weights that are known by the nodes which use them."""
    for node in graph.nodes:
        if node.op_type == "DynamicQuantizeLSTM":
            yield from _recurrent(graph, node)
        elif len(node.input) < 2 or node.input[1] not in graph.constants:
            continue
        elif node.op_type in ("ConvInteger", "Conv", "ConvTranspose"):
            yield f"{_module(node.name)}.weight", graph.weight(node.input[1])
        elif node.op_type == "MatMulInteger":
            module = re.sub(r"_\d+$", "", _module(node.name))
            yield f"{module}.weight", graph.weight(node.input[1]).T


def _named(graph: _Graph) -> Iterator[tuple[str, _Array]]:
    """Return the weights that have kept their names."""
    for name in graph.constants:
        if not re.match(r"(encoder|decoder)\.", name):
            continue
        if re.search(r"_(scale|zero_point|shape)$", name):
            continue
        module = name.removesuffix("_quantized").removeprefix("encoder.")
        module = module.removeprefix("decoder.")
        values = graph.weight(name)
        yield module, values.T if module.endswith(".fc.weight") else values


def read_exported(path: Path) -> dict[str, Tensor]:
    """Read an export.

    Returns:
        float32 weights by the names of ``kokoro.Network``'s parameters.

    Raises:
        ConfigError: the package ``onnx`` is missing.
    """
    graph = _Graph(path)
    weights: dict[str, _Array] = {}
    for name, values in chain(_used(graph), _named(graph)):
        weights.setdefault(name, values)
    if _MIXER in graph.constants:
        weights["decoder.generator.m_source.l_linear.weight"] = graph.constants[_MIXER].T
    return {
        name: torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
        for name, values in weights.items()
    }


__all__ = ["read_exported"]
