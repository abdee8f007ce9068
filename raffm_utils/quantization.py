"""int8 weights and matrix products for an ONNX graph, by onnxruntime."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DeploymentError
from .onnx_graph import require, save_onnx

if TYPE_CHECKING:
    from .data import Split

CALIBRATION_EXAMPLES = 256
QUANTIZED = ("MatMul", "Gather")  # layers and embeddings, nearly all weights; patch convolution and head stay in float


def quantize_dynamic(source: Path, path: Path, facts: Mapping[str, str]) -> None:
    """int8 weights; the range of activations is taken anew from every batch."""
    require("onnxruntime")
    from onnxruntime import quantization

    with _quiet():
        quantization.quantize_dynamic(source, path, nodes_to_quantize=_with_weights(source), **_weights())
    _finish(path, facts)


def quantize_static(source: Path, path: Path, facts: Mapping[str, str], calibration: "Split | None") -> None:
    """int8 weights; the range of activations is fixed beforehand, from examples that are not `test`."""
    require("onnxruntime")
    from onnxruntime import quantization

    calibration = check_calibration(calibration)
    first = calibration.subset(range(min(len(calibration), CALIBRATION_EXAMPLES)))

    class Reader(quantization.CalibrationDataReader):
        """Feeds the calibration examples, one batch after the other."""

        def __init__(self) -> None:
            self.batches = first.batches(32)

        def get_next(self) -> dict[str, Any] | None:
            inputs, _ = next(self.batches, (None, None))
            return None if inputs is None else {name: tensor.numpy() for name, tensor in inputs.items()}

    activations = quantization.QuantType.QUInt8
    with _quiet():
        quantization.quantize_static(
            source,
            path,
            Reader(),
            activation_type=activations,
            nodes_to_quantize=_with_weights(source),
            **_weights(),
        )
    _finish(path, facts)


def check_calibration(calibration: "Split | None") -> "Split":
    """The calibration examples; raises `DeploymentError` when there are none, or they are of `test`."""
    if calibration is None or calibration.split == "test":
        given = "none" if calibration is None else f"{calibration.name}/{calibration.split}"
        raise DeploymentError(
            f"calibration examples: {given}: static int8 takes the ranges of activations from examples: give "
            "calibration=load_split(..., 'train', limit=256, processor=...), never from 'test'"
        )
    return calibration


def _weights() -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    # 7 of 8 bits: without VNNI instructions the products of two full bytes overflow their 16-bit sums
    return {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}


def _with_weights(source: Path) -> list[str]:
    """The operators that hold weights: products of two activations (attention) stay in float."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer if len(weight.dims) == 2}
    return [node.name for node in graph.node if node.op_type in QUANTIZED and weights & set(node.input)]


def _finish(path: Path, facts: Mapping[str, str]) -> None:
    import onnx

    save_onnx(onnx.load(path), path, facts)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime advises a preparation that these graphs have no need of."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
