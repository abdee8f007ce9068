"""Another default dtype or device of torch, and networks in another precision, change neither numbers nor files."""

import copy
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from conftest import FAMILY_NAMES, make_supernet, make_tokenizer

from raffm_utils.data import Pixels, Split, Tokens
from raffm_utils.deployment import export_submodel, graphs, load_submodel
from raffm_utils.errors import DeploymentError
from raffm_utils.evaluation import evaluate, sweep
from raffm_utils.evaluation.latency import measure_latency_ms
from raffm_utils.supernet import Supernet, checkpoints


@pytest.fixture(params=["float64", "bfloat16", "meta"])
def other_default(request):
    """As people set it in the same notebook: doubles for physics, a GPU for everything (here an empty one)."""
    if request.param == "meta":
        torch.set_default_device("meta")
    else:
        torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def _split(kind):
    labels = torch.arange(12, device="cpu") % 5
    raw = datasets.Dataset.from_dict({"label": labels.tolist()})
    if kind == "vit":
        generator = torch.Generator("cpu").manual_seed(1)
        pixels = torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8, device="cpu")
        encoded = Pixels(pixels, transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}))
    else:
        encoded = Tokens.of([[2, *[5 + i % 6] * (1 + i % 3), 3] for i in range(12)], make_tokenizer(kind))
    rows = torch.arange(12, device="cpu")
    return Split("made_up", "validation", labels, tuple("abcde"), raw, "0" * 8, rows, encoded)


def _facts(folder: Path, kind: str):
    """What is loaded, evaluated, swept, exported and timed of a checkpoint."""
    supernet, data = Supernet.from_pretrained(folder, tokens=9), _split(kind)
    config = supernet.space.smallest()
    model = supernet.extract(config)
    inputs, _ = next(data.batches(12))
    if torch.get_default_device().type != "meta":  # on which torch's own timer would keep its times
        assert measure_latency_ms(model, tokens=9, seconds=0.01).per_batch_ms > 0
    file = folder.parent / f"{torch.get_default_dtype()}-{torch.get_default_device()}"
    (row,) = sweep(supernet, [config], data, file.with_suffix(".jsonl"), progress=False)
    files = ("model.pt2", "model.onnx") if kind == "vit" else ()  # tracing takes seconds
    export_submodel(model, file, ("safetensors", *(name.removeprefix("model.") for name in files)))
    with torch.inference_mode():
        logits = [network(**inputs).logits for network in (model, load_submodel(file))]
        for name in files:
            logits.append(graphs.GraphClassifier(file / name, model.config, tuple(inputs))(**inputs).logits)
    measured = evaluate(model, data)
    assert (row.accuracy, row.f1) == (measured.accuracy, measured.f1)
    return supernet.fingerprint(), inputs, logits, measured.f1, measured.loss, row.fingerprint


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def known(request, tmp_path_factory):
    """A checkpoint folder and its facts under the usual defaults."""
    kind, folder = request.param, tmp_path_factory.mktemp("defaults") / request.param / "checkpoint"
    supernet = make_supernet(kind)
    checkpoints.save(folder, supernet.model, supernet.spec, None, torch.float32)
    return kind, folder, _facts(folder, kind)


def test_another_default_of_torch_changes_nothing(known, other_default):
    kind, folder, before = known
    after = _facts(folder, kind)
    assert after[0] == before[0] == after[-1]
    for name, value in after[1].items():
        assert value.dtype == before[1][name].dtype
        assert torch.equal(value, before[1][name])
    for got, wanted in zip(after[2], before[2], strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).abs().max() < 1e-5
    assert after[3] == before[3]
    assert after[4] == pytest.approx(before[4], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_network_in_another_precision_is_exported_in_float32(tmp_path, dtype):
    supernet = make_supernet("vit")
    model = supernet.extract(supernet.space.smallest(), copy=True).to(dtype)
    whole = copy.deepcopy(model).float()
    export_submodel(model, tmp_path / "out", ("safetensors", "onnx"))
    assert {p.dtype for p in model.parameters()} == {dtype}
    for name, p in load_submodel(tmp_path / "out").named_parameters():
        assert torch.equal(p, whole.get_parameter(name))


@pytest.mark.parametrize("name", ["pt2", "onnx"])
def test_a_graph_of_doubles_is_not_verified(tmp_path, monkeypatch, name):
    """It would agree with the model to the last digit, and no client could run it."""
    supernet = make_supernet("vit")

    def doubles(model):
        own = copy.deepcopy(model).double()
        pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        shapes = (({0: torch.export.Dim.DYNAMIC},),)
        return torch.export.export(graphs.Positional(own, ("pixel_values",)), (pixels,), dynamic_shapes=shapes)

    monkeypatch.setattr("raffm_utils.deployment.export.trace", doubles)
    with pytest.raises(DeploymentError, match=r"the graph takes .*(float64|double).*, but clients give float32"):
        export_submodel(supernet.extract(supernet.space.smallest()), tmp_path / "out", (name,))
    assert not (tmp_path / "out").exists()
