"""A submodel as a graph that runs without this package: `torch.export` and ONNX."""

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import DeploymentError
from ..evaluation import Positional, example_inputs
from ..supernet import quiet

if TYPE_CHECKING:
    from ..data import Split


SINGLE_FILE_BYTES = 2 * 10**9  # protobuf ends at 2 GiB: what is larger gets its weights in a second file
LEAST_HALVED = 256  # smaller constants are biases and shapes: nothing to gain
DYNAMIC_AXES = ("batch", "sequence")
TOKENS, PADDING = 8, 3  # of the texts that graphs are traced with


def require(*packages: str) -> None:
    """Raise `DeploymentError` unless these packages are there."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise DeploymentError(f"{package} is missing ({error}): pip install 'raffm-utils[deploy]'") from error


def made_up_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two images, or two texts of which one is padded."""
    return example_inputs(model, 2, TOKENS, PADDING)


def trace(model: PreTrainedModel) -> torch.export.ExportedProgram:
    """The graph of a submodel for any batch size and sequence length, with weights of its own."""
    own: Any = copy.deepcopy(model)
    own.to("cpu", torch.float32).eval()
    own.config._attn_implementation = "eager"  # a third fewer operators than the decomposed fused kernel
    inputs = made_up_inputs(own)
    # tokens are (batch, sequence); of images only the batch may vary
    shapes = tuple(
        dict.fromkeys((0, 1) if value.ndim == len(DYNAMIC_AXES) else (0,), torch.export.Dim.DYNAMIC)
        for value in inputs.values()
    )
    with quiet("torch.onnx"), _explained("torch.export"):
        return torch.export.export(Positional(own, tuple(inputs)), tuple(inputs.values()), dynamic_shapes=(shapes,))


def write_pt2(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """For `torch.export.load(path).module()`, which takes the inputs by position."""
    content = io.BytesIO()  # not the file: on a full disk its writer would end the whole process
    with quiet("torch.onnx"):
        torch.export.save(program, content, extra_files=dict(facts))
    path.write_bytes(content.getbuffer())


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, names: tuple[str, ...], facts: Mapping[str, str]
) -> None:
    """Write ONNX, as one file if protobuf allows it, with the facts as metadata."""
    require("onnx", "onnxscript")
    with quiet("torch.onnx"), _explained("ONNX"):
        converted = torch.onnx.export(
            program, dynamo=True, input_names=list(names), output_names=["logits"], verbose=False
        )
    assert converted is not None
    proto = converted.model_proto
    _name_axes(proto.graph)
    save_onnx(proto, path, facts)


def _name_axes(graph: Any) -> None:
    names = {
        dim.dim_param: name
        for value in graph.input
        for name, dim in zip(DYNAMIC_AXES, value.type.tensor_type.shape.dim, strict=False)
        if dim.dim_param
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)


def save_onnx(proto: Any, path: Path, facts: Mapping[str, str]) -> None:
    """Write a graph with these facts as its only metadata."""
    import onnx

    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        del item.metadata_props[:]  # where in the source each operator comes from: a megabyte of it
    onnx.helper.set_model_props(proto, dict(facts))
    beside = path.with_name(f"{path.name}.data")
    beside.unlink(missing_ok=True)  # it would be appended to
    large = sum(len(weight.raw_data) for weight in proto.graph.initializer) >= SINGLE_FILE_BYTES
    onnx.save(proto, path, save_as_external_data=large, location=beside.name if large else None)


def halve_onnx(source: Path, path: Path, facts: Mapping[str, str]) -> None:
    """The same graph with its weights stored in float16 and cast when it is loaded: it computes in float32."""
    import onnx

    proto = onnx.load(source)
    casts = []
    for weight in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if weight.data_type != onnx.TensorProto.FLOAT or values.size < LEAST_HALVED:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise DeploymentError(f"{weight.name} does not fit float16: export it in float32, with format 'onnx'")
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_float16"))
        casts.append(onnx.helper.make_node("Cast", [weight.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    save_onnx(proto, path, facts)


class GraphClassifier(nn.Module):
    """An exported graph with the interface of a `transformers` classifier, so that `evaluate` can measure it."""

    device = torch.device("cpu")

    def __init__(self, path: Path, config: Any, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.config, self.inputs, self.main_input_name = config, inputs, inputs[0]
        if path.suffix == ".pt2":
            with torch.device("cpu"):
                exported = torch.export.load(path)
            given = [node.meta["val"].dtype for node in exported.graph.nodes if node.op == "placeholder"]
            _check_kinds(path, given[-len(inputs) :])
            program = exported.module()
            self.run = lambda *values: program(*values)  # not a submodule: it refuses eval()
            return
        require("onnx", "onnxruntime")
        import onnx
        import onnxruntime

        graph = onnx.load(path, load_external_data=False).graph
        _check_kinds(path, [_onnx_kind(value.type.tensor_type.elem_type) for value in graph.input])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(*values: torch.Tensor) -> torch.Tensor:
            feed = dict(zip(inputs, (value.numpy() for value in values), strict=True))
            return torch.from_numpy(session.run(None, feed)[0])

        self.run = run

    def forward(self, **values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.run(*(values[name] for name in self.inputs)))


def _onnx_kind(number: int) -> str:
    import onnx

    return f"torch.{onnx.helper.tensor_dtype_to_np_dtype(number)}"


def _check_kinds(path: Path, kinds: Sequence[torch.dtype | str]) -> None:
    """Raise `DeploymentError` unless a graph takes what every client gives it: float32 pixels, or int64 numbers."""
    if wrong := [kind for kind in map(str, kinds) if kind not in ("torch.float32", "torch.int64")]:
        raise DeploymentError(
            f"{path}: the graph takes {', '.join(wrong)}, but clients give float32 pixels and int64 numbers of words: "
            "do not use it; call torch.set_default_dtype(torch.float32) and export again"
        )


@contextlib.contextmanager
def _explained(target: str) -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the exporters raise many kinds, one inside the other
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise DeploymentError(
            f"{target} cannot say what this network computes ({reason}): leave that format out; "
            "'safetensors' needs no graph"
        ) from error


QUANTIZATION_EXAMPLES = 256
QUANTIZED = ("MatMul", "Gather")  # layers and embeddings, nearly all weights; patches and classifier stay in float


def quantize_dynamic(source: Path, path: Path, facts: Mapping[str, str]) -> None:
    """Quantize weights to int8; the range of activations is determined per batch."""
    require("onnxruntime")
    from onnxruntime import quantization

    with quiet("root"):  # onnxruntime advises a preparation that these graphs have no need of
        quantization.quantize_dynamic(source, path, nodes_to_quantize=_with_weights(source), **_weights())
    _finish(path, facts)


def quantize_static(source: Path, path: Path, facts: Mapping[str, str], calibration: "Split | None") -> None:
    """Quantize weights to int8; the range of activations is calibrated on examples that are not `test`."""
    require("onnxruntime")
    from onnxruntime import quantization

    calibration = check_calibration(calibration)
    first = calibration.subset(range(min(len(calibration), QUANTIZATION_EXAMPLES)))

    class Reader(quantization.CalibrationDataReader):
        """Feeds the calibration examples, one batch after the other."""

        def __init__(self) -> None:
            self.batches = first.batches(32)

        def get_next(self) -> dict[str, Any] | None:
            inputs, _ = next(self.batches, (None, None))
            return None if inputs is None else {name: tensor.numpy() for name, tensor in inputs.items()}

    activations = quantization.QuantType.QUInt8
    with quiet("root"):
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
    """The calibration examples; raises `DeploymentError` if there are none or they are from `test`."""
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
