"""Weights of an export are real numbers again, under the names that the modules have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from stream_server.errors import ConfigError
from stream_server.training.exported import read_exported

RANDOM = np.random.default_rng(1)


def integers(*shape: int) -> Any:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def quantised(name: str, values: Any, scale: Any, zero: Any) -> dict[str, Any]:
    """Constants as quantisation names them."""
    return {
        f"{name}_quantized": values,
        f"{name}_scale": np.asarray(scale, np.float32),
        f"{name}_zero_point": np.asarray(zero, np.uint8),
    }


def node(kind: str, name: str, *inputs: str) -> Any:
    return helper.make_node(kind, inputs, [f"{name}_out"], name=name)


def read(path: Path, nodes: list[Any], constants: dict[str, Any]) -> dict[str, Any]:
    """Write a graph, and read its weights."""
    initial = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [], [], initial)), path)
    return {name: value.numpy() for name, value in read_exported(path).items()}


def integer(kind: str, name: str, weight: str) -> Any:
    return node(kind, name, "x", f"{weight}_quantized", "x_zero", f"{weight}_zero_point")


def test_a_convolution_has_a_scale_for_each_channel(tmp_path: Path) -> None:
    values, scales, zeros = integers(2, 3, 5), [0.5, 0.25], [7, 130]
    name = "/encoder/text_encoder/cnn.0/cnn.0.0/Conv_quant"
    conv = integer("ConvInteger", name, "onnx::Conv_1")
    found = read(tmp_path / "x", [conv], quantised("onnx::Conv_1", values, scales, zeros))
    (weight,) = [found["text_encoder.cnn.0.0.weight"]]
    expected = [(values[n].astype(float) - zeros[n]) * scales[n] for n in (0, 1)]
    np.testing.assert_array_equal(weight, np.stack(expected).astype(np.float32))


def test_a_matrix_product_is_turned_and_counted_once(tmp_path: Path) -> None:
    values, zeros = integers(3, 4), [1, 2, 3, 4]
    scales = [0.5, 1.0, 2.0, 4.0]
    constants = quantised("onnx::MatMul_1", values, scales, zeros)
    constants |= quantised("onnx::MatMul_2", values, 0.125, 128)
    nodes = [
        integer("MatMulInteger", "/encoder/bert_encoder/MatMul_quant", "onnx::MatMul_1"),
        # The layers of ALBERT share their weights: each has a node of the same module.
        integer("MatMulInteger", "/encoder/bert/layer/ffn/MatMul_quant", "onnx::MatMul_2"),
        integer("MatMulInteger", "/encoder/bert/layer/ffn_1/MatMul_quant", "onnx::MatMul_1"),
    ]
    found = read(tmp_path / "x", nodes, constants)
    assert set(found) == {"bert_encoder.weight", "bert.layer.ffn.weight"}
    turned = [[(float(v) - zeros[n]) * scales[n] for v in values[:, n]] for n in range(4)]
    np.testing.assert_array_equal(found["bert_encoder.weight"], np.array(turned, np.float32))
    even = (values.T.astype(np.float32) - 128) * 0.125
    np.testing.assert_array_equal(found["bert.layer.ffn.weight"], even)


def test_gates_of_an_lstm_come_in_the_order_of_torch(tmp_path: Path) -> None:
    inputs, size = 3, 2
    w, r = integers(2, inputs, 4 * size), integers(2, size, 4 * size)
    scales = RANDOM.random((2, 2, 4 * size)).astype(np.float32)
    zeros = integers(2, 2, 4 * size)
    bias = RANDOM.random((2, 8 * size)).astype(np.float32)
    constants = quantised("w", w, scales[0], zeros[0]) | quantised("r", r, scales[1], zeros[1])
    name = "/encoder/text_encoder/lstm/LSTM_quant"
    scale = ("w_scale", "w_zero_point", "r_scale", "r_zero_point")
    inputs_of = ("x", "w_quantized", "r_quantized", "bias", "", "h", "c", "", *scale)
    found = read(
        tmp_path / "x", [node("DynamicQuantizeLSTM", name, *inputs_of)], constants | {"bias": bias}
    )
    assert len(found) == 8
    # ONNX has input, output, forget, cell; torch input, forget, cell, output.
    order = [0, 1, 4, 5, 6, 7, 2, 3]
    for way, end in enumerate(("", "_reverse")):
        for kind, values, place in (("ih", w, 0), ("hh", r, 1)):
            columns = [
                (values[way, :, n].astype(np.float32) - zeros[place, way, n])
                * scales[place, way, n]
                for n in order
            ]
            weight = found[f"text_encoder.lstm.weight_{kind}_l0{end}"]
            np.testing.assert_array_equal(weight, np.stack(columns))
            half = bias[way, 8 * place : 8 * place + 8]
            found_bias = found[f"text_encoder.lstm.bias_{kind}_l0{end}"]
            np.testing.assert_array_equal(found_bias, half[order])


def test_what_kept_its_name_is_found_by_it(tmp_path: Path) -> None:
    values = integers(5, 2)
    fc = RANDOM.random((2, 3)).astype(np.float32)
    half = np.array([0.5, 0.25], np.float16)
    constants = {
        **quantised("encoder.bert.embeddings.weight", values, 0.5, 3),
        "encoder.predictor.text_encoder.lstms.1.fc.weight": fc,
        "decoder.decoder.generator.alphas.0": half,
        "encoder.some_shape": np.array([1]),
        "onnx::MatMul_6993": np.array([[1], [2]], np.float32),
        "other": np.array([1], np.float32),
    }
    gather = node("DequantizeLinear", "/encoder/d", "encoder.bert.embeddings.weight_quantized")
    found = read(tmp_path / "x", [gather], constants)
    expected = {
        "bert.embeddings.weight": (values.astype(np.float32) - 3) * 0.5,
        "predictor.text_encoder.lstms.1.fc.weight": fc.T,
        "decoder.generator.alphas.0": half.astype(np.float32),
        "decoder.generator.m_source.l_linear.weight": np.array([[1, 2]], np.float32),
    }
    assert set(found) == set(expected)
    for name, weight in found.items():
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, expected[name])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/encoder/F0_proj/Conv", "predictor.F0_proj"),
        ("/encoder/N.1/conv1/Conv", "predictor.N.1.conv1"),
        ("/decoder/decoder/decode.0/conv1/Conv", "decoder.decode.0.conv1"),
        ("/decoder/decoder/generator/ups.1/ConvTranspose", "decoder.generator.ups.1"),
    ],
)
def test_a_weight_is_named_after_the_module_of_its_node(
    tmp_path: Path, name: str, module: str
) -> None:
    weight = RANDOM.random((2, 2, 3)).astype(np.float32)
    kind = name.rpartition("/")[2]
    found = read(tmp_path / "x", [node(kind, name, "x", "onnx::1")], {"onnx::1": weight})
    assert list(found) == [f"{module}.weight"]
    np.testing.assert_array_equal(found[f"{module}.weight"], weight)


def test_without_its_package_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"onnx='missing'.*pip install 'diffscribe\[voices\]'"):
        read_exported(tmp_path / "x")
