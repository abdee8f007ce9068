"""Exported folders: what is read back computes what the supernet computes, and a fault leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import FAMILY_NAMES, make_inputs, make_supernet
from helpers.export import names, processor_for, split_for
from safetensors.torch import load_file, save_file

from raffm_utils import RaffmError, export_submodel, load_submodel
from raffm_utils.deployment import FORMATS, GraphClassifier, submodel_folder, widths_of
from raffm_utils.deployment import graphs as onnx_graph
from raffm_utils.errors import CheckpointError, DeploymentError
from raffm_utils.space import SubmodelConfig
from raffm_utils.writing import PART_PREFIX

# --- graphs are slow to make, also of tiny networks: one export of everything for each family
ALL = ("safetensors", "pt2", "onnx", "onnx-float16", "onnx-int8-dynamic", "onnx-int8-static")
CLOSE = dict(rtol=0, atol=1e-4)


def logits_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# --- the folder of weights


def test_the_folder_gives_the_same_model_back(kind_and_supernet, tmp_path):
    kind, supernet = kind_and_supernet
    config = supernet.space.smallest()
    model, folder = supernet.extract(config), tmp_path / "deep" / "out"
    export = export_submodel(model, folder, ["safetensors"], processor=processor_for(supernet))
    assert not export.stock, "its layers differ"
    assert export.parameters == supernet.cost(config).parameters
    assert {name: list(t.shape) for name, t in load_file(folder / "model.safetensors").items()} == {
        name: list(t.shape) for name, t in model.state_dict().items()
    }
    torch.manual_seed(3)
    again = load_submodel(folder)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3)), "reading a folder must leave the random numbers alone"
    assert type(again) is type(model)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert widths_of(again) == config
    assert torch.equal(logits_of(again, make_inputs(kind)), logits_of(model, make_inputs(kind)))
    assert left_in(tmp_path / "deep") == ["out"]


@pytest.mark.parametrize(
    ("config", "stock"),
    [
        (SubmodelConfig(36, (36,) * 3, (40,) * 3), FAMILY_NAMES),
        (SubmodelConfig(48, (48,) * 3, (64,) * 3), FAMILY_NAMES),
        # attention that is not as wide as the hidden states: only ViT's configuration has a name for its head size
        (SubmodelConfig(36, (24,) * 3, (40,) * 3), ("vit",)),
        (SubmodelConfig(25, (20,) * 3, (7,) * 3), ("vit",)),
        (SubmodelConfig(36, (36, 36, 32), (40,) * 3), ()),
        (SubmodelConfig(36, (36,) * 3, (40, 40, 33)), ()),
    ],
)
def test_a_uniform_submodel_is_a_stock_folder(kind_and_supernet, tmp_path, config, stock):
    kind, supernet = kind_and_supernet
    model, inputs = supernet.extract(config), make_inputs(kind)
    export = export_submodel(model, tmp_path / "out", "safetensors")
    assert export.stock == (kind in stock)
    torch.testing.assert_close(logits_of(load_submodel(tmp_path / "out"), inputs), logits_of(model, inputs), **CLOSE)
    auto = getattr(transformers, supernet.family.auto_class)
    card = (tmp_path / "out" / "README.md").read_text()
    if export.stock:
        plain = auto.from_pretrained(tmp_path / "out").eval()
        torch.testing.assert_close(logits_of(plain, inputs), logits_of(model, inputs), **CLOSE)
        assert f"{supernet.family.auto_class}.from_pretrained" in card
    else:
        with pytest.raises((RuntimeError, ValueError)):
            auto.from_pretrained(tmp_path / "out")
        assert "load_submodel" in card


def test_the_description_on_disk_keeps_its_form(tmp_path):
    supernet = make_supernet("vit", **names())
    config, data = supernet.space.smallest(), split_for(supernet)
    export_submodel(
        supernet.extract(config), tmp_path / "out", "safetensors", data=data, about={"checkpoint": "tiny", "macs": 7}
    )
    content = json.loads((tmp_path / "out" / "submodel.json").read_text())
    start = ["checkpoint", "macs", "model_type", "auto_class", "stock", "hidden", "attention", "ffn"]
    assert list(content) == [*start, "parameters", "labels", "versions", "formats"]
    assert (content["attention"], content["labels"]) == (list(config.attention), list("abcde"))
    found = content["formats"]["safetensors"]
    assert list(found) == ["file", "bytes", "max_logit_difference", "compared_on", "evaluation"]
    numbers = ["accuracy", "low", "high", "f1", "loss", "examples"]
    assert list(found["evaluation"]) == ["dataset", "split", *numbers]
    assert all(isinstance(found["evaluation"][key], int | float) for key in numbers)


def test_a_submodel_of_a_reloaded_submodel_can_be_exported_again(kind_and_supernet, tmp_path):
    kind, supernet = kind_and_supernet
    export_submodel(supernet.extract(supernet.space.smallest()), tmp_path / "one", ["safetensors"])
    again = load_submodel(tmp_path / "one")
    export_submodel(again, tmp_path / "two", ["safetensors"])
    inputs = make_inputs(kind)
    assert torch.equal(logits_of(load_submodel(tmp_path / "two"), inputs), logits_of(again, inputs))


def test_float16_storage_takes_half_the_room(tmp_path):
    supernet = make_supernet("vit")
    model, inputs = supernet.extract(supernet.space.smallest()), make_inputs("vit")
    export_submodel(model, tmp_path / "whole", ["safetensors"])
    (found,) = export_submodel(model, tmp_path / "half", ["safetensors-float16"]).formats
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    again = load_submodel(tmp_path / "half")
    assert again.dtype == torch.float32
    difference = (logits_of(again, inputs) - logits_of(model, inputs)).abs().max()
    assert 0 < difference < 0.05
    assert found.max_logit_difference > 0
    assert (tmp_path / "half" / "model.safetensors").stat().st_mode & 0o044, "others may read it, as the rest"


@pytest.mark.parametrize("format_name", ["safetensors-float16", "onnx-float16"])
def test_weights_that_float16_cannot_hold_are_refused(tmp_path, format_name):
    model = make_supernet("vit").extract(SubmodelConfig(36, (36,) * 3, (40,) * 3), copy=True)
    with torch.no_grad():
        model.vit.layers[1].mlp.fc1.weight[3, 4] = 1e5
    with pytest.raises(DeploymentError, match="fit") as error:
        export_submodel(model, tmp_path / "out", [format_name])
    assert "float32" in str(error.value)
    assert left_in(tmp_path) == []


# --- graphs

Made = namedtuple("Made", "kind supernet model folder export")


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def made(request, tmp_path_factory) -> Made:
    kind = request.param
    supernet = make_supernet(kind, **names())
    model, folder = supernet.extract(supernet.space.smallest()), tmp_path_factory.mktemp("made") / "out"
    export = export_submodel(
        model,
        folder,
        ALL,
        processor=processor_for(supernet),
        data=split_for(supernet),
        calibration=split_for(supernet, "train"),
        about={"checkpoint": "tiny", "provenance": {"dataset": "made_up"}},
    )
    return Made(kind, supernet, model, folder, export)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt2", "onnx"])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 3), (2, 8), (7, 21)])
def test_graphs_compute_the_same_at_any_batch_size_and_length(made, name, batch, tokens):
    inputs = make_inputs(made.kind, batch=batch, tokens=tokens)
    graph = GraphClassifier(made.folder / FORMATS[name][0], made.model.config, tuple(inputs))
    torch.testing.assert_close(logits_of(graph, inputs), logits_of(made.model, inputs), **CLOSE)


@pytest.mark.slow
def test_every_format_was_compared_and_measured(made):
    assert tuple(found.format for found in made.export.formats) == ALL
    for found in made.export.formats:
        assert found.bytes == (made.folder / found.file).stat().st_size
        assert found.max_logit_difference < (1e-4 if found.format in ("safetensors", "pt2", "onnx") else 0.5)
        assert found.compared_on == f"{len(split_for(made.supernet))} examples of made_up validation"
        assert found.evaluation.low <= found.evaluation.accuracy <= found.evaluation.high
    assert json.loads((made.folder / "submodel.json").read_text()) == json.loads(json.dumps(made.export.to_json()))
    card = (made.folder / "README.md").read_text()
    assert 'datasets: ["made_up"]' in card
    assert "of the scalable network `tiny`" in card
    for found in made.export.formats:
        assert f"`{found.file}`" in card
    assert not [path for path in left_in(made.folder) if path.endswith((".tmp", ".data"))]


@pytest.mark.slow
def test_onnx_files_explain_themselves(made):
    import onnx

    for name in ALL[2:]:
        proto = onnx.load(made.folder / FORMATS[name][0])
        onnx.checker.check_model(proto)
        facts = {item.key: json.loads(item.value) for item in proto.metadata_props}
        assert facts["labels"] == list("abcde")
        assert facts["submodel"]["hidden"] == 25
        expected = {"height", "mean"} if made.supernet.family.is_image else {"max_length", "pad_id"}
        assert expected <= set(facts["preprocessing"])
        axes = [dim.dim_param for dim in proto.graph.input[0].type.tensor_type.shape.dim]
        assert axes[:2] == ["batch", "" if made.supernet.family.is_image else "sequence"]
        assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.slow
def test_int8_holds_its_weights_in_bytes(made):
    import onnx

    for name in ("onnx-int8-dynamic", "onnx-int8-static"):
        proto = onnx.load(made.folder / FORMATS[name][0])
        whole = sum(len(w.raw_data) for w in onnx.load(made.folder / "model.onnx").graph.initializer)
        matrices = [w.data_type for w in proto.graph.initializer if len(w.dims) == 2]
        assert matrices.count(onnx.TensorProto.INT8) >= 6 * 3, "six in each layer"
        assert matrices.count(onnx.TensorProto.FLOAT) <= 2, "the classifier"
        assert sum(len(w.raw_data) for w in proto.graph.initializer) < 0.6 * whole  # tiny: biases weigh much


@pytest.mark.slow
def test_large_graphs_get_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "SINGLE_FILE_BYTES", 1)
    supernet = make_supernet("vit")
    model, inputs = supernet.extract(supernet.space.smallest()), make_inputs("vit")
    export = export_submodel(model, tmp_path / "out", ["onnx", "onnx-int8-dynamic"])
    assert [name for name in left_in(tmp_path / "out") if "onnx" in name] == [
        "model-int8-dynamic.onnx",
        "model-int8-dynamic.onnx.data",
        "model.onnx",
        "model.onnx.data",
    ]
    size = sum((tmp_path / "out" / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert export.formats[0].bytes == size
    graph = GraphClassifier(tmp_path / "out" / "model.onnx", model.config, tuple(inputs))
    torch.testing.assert_close(logits_of(graph, inputs), logits_of(model, inputs), **CLOSE)


@pytest.mark.parametrize("split", [None, "test"])
def test_calibration_is_needed_and_never_on_test(tmp_path, split):
    supernet = make_supernet("vit", **names())
    calibration = None if split is None else split_for(supernet, split)
    with pytest.raises(DeploymentError, match="calibration=load_split"):
        export_submodel(
            supernet.extract(supernet.full), tmp_path / "out", ["onnx-int8-static"], calibration=calibration
        )
    assert left_in(tmp_path) == []


# --- faults


def one() -> Any:
    supernet = make_supernet("vit")
    return supernet.extract(supernet.space.smallest())


@pytest.mark.parametrize(
    ("formats", "said"),
    [
        ([], "none"),
        (["tflite"], "tflite"),
        ("zip", "zip"),
        (["safetensors", "safetensors-float16"], "ask for one"),
    ],
)
def test_formats_that_cannot_be_had(tmp_path, formats, said):
    with pytest.raises(DeploymentError, match=said):
        export_submodel(one(), tmp_path / "out", formats)
    assert left_in(tmp_path) == []


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(DeploymentError, match=r"is not empty .*precious"):
        export_submodel(one(), tmp_path, ["safetensors"])
    with pytest.raises(DeploymentError, match="is a file"):
        export_submodel(one(), tmp_path / "precious", ["safetensors"])
    assert left_in(tmp_path) == ["precious"]
    (tmp_path / "empty").mkdir()
    export_submodel(one(), tmp_path / "empty", ["safetensors"])
    assert "model.safetensors" in left_in(tmp_path / "empty")


def test_too_little_room_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1_000_000))
    monkeypatch.setattr(submodel_folder, "save_file", stop)
    with pytest.raises(DeploymentError, match=r"4\.\d MB are needed, but the disk has 1\.0 MB left"):
        export_submodel(one(), tmp_path / "out", ["safetensors"])
    assert left_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["safetensors", "pt2", "onnx"])
def test_a_disk_that_runs_full_leaves_nothing(tmp_path, format_name):
    resource = pytest.importorskip("resource", reason="file sizes cannot be limited on this system")
    assert resource
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_export import one
from raffm_utils import RaffmError, export_submodel
model = one()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    export_submodel(model, "out", [{format_name!r}])
except RaffmError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "out cannot be written" in ended.stdout, ended.stdout + ended.stderr
    assert "make room" in ended.stdout
    assert left_in(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(submodel_folder, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        export_submodel(one(), tmp_path / "out", ["safetensors"])
    assert left_in(tmp_path) == []


def test_a_killed_export_does_not_look_whole(tmp_path):
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_export import one
from raffm_utils import export_submodel
kill = lambda what: what.startswith("check") and os.kill(os.getpid(), signal.SIGKILL)
export_submodel(one(), "out", ["safetensors"], on_step=kill)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, timeout=300)
    assert ended.returncode != 0
    (left,) = left_in(tmp_path)
    assert left.startswith(PART_PREFIX)
    export_submodel(one(), tmp_path / "out", ["safetensors"])
    assert left_in(tmp_path) == ["out"]


@pytest.mark.parametrize("format_name", ["pt2", "onnx"])
def test_an_operator_without_a_counterpart_is_named(tmp_path, format_name):
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.special.bessel_j0(x) if format_name == "onnx" else x * float(x.sum())

    model = one()
    model.vit.layers[1].mlp.activation_fn = Odd()
    with pytest.raises(DeploymentError, match="cannot say what this network computes") as error:
        export_submodel(model, tmp_path / "out", ["safetensors", format_name])
    if format_name == "onnx":
        assert "bessel_j0" in str(error.value)
    assert "leave that format out" in str(error.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("package", "format_name"), [("onnxruntime", "onnx"), ("onnxscript", "onnx")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, format_name):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RaffmError, match=rf"{package} is missing .*pip install 'raffm-utils\[deploy\]'"):
        export_submodel(one(), tmp_path / "out", [format_name])
    assert left_in(tmp_path) == []
    export_submodel(one(), tmp_path / "out", ["safetensors"])


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        submodel_folder,
        "save_file",
        lambda tensors, *a, **k: save_file({n: 1.1 * t for n, t in tensors.items()}, *a, **k),
    )
    with pytest.raises(DeploymentError, match="differ by"):
        export_submodel(one(), tmp_path / "out", ["safetensors"])
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "submodel.json").unlink(), "submodel.json is missing"),
        (lambda folder: (folder / "submodel.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "submodel.json").write_text("[]"), "not a description"),
        (lambda folder: (folder / "submodel.json").write_text('{"stock": 1}'), "not a description"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "vit", "hidden_size": -4}'),
            "submodel.json",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: _edit(folder, hidden=26), r"do not fit submodel.json .*needed"),
    ],
)
def test_damaged_folders_are_refused_by_name(tmp_path, damage, said):
    export_submodel(one(), tmp_path / "out", ["safetensors"])
    damage(tmp_path / "out")
    with pytest.raises(CheckpointError, match=said):
        load_submodel(tmp_path / "out")


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "submodel.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
