"""Submodels of which blocks are left out, as folders and graphs."""

import json

import pytest
import torch
import transformers
from conftest import FAMILY_NAMES, TEXT_FAMILIES, make_inputs, make_supernet, with_blocks_left_out
from helpers.export import names, processor_for, split_for

from raffm_utils import export_submodel, load_submodel
from raffm_utils.deployment import FORMATS, GraphClassifier, widths_of
from raffm_utils.errors import CheckpointError
from raffm_utils.space import SubmodelConfig

CLOSE = dict(rtol=0, atol=1e-4)
# of the first layer nothing is left, of the last no FFN
UNEVEN = SubmodelConfig(36, (0, 20, 12), (0, 40, 0))


def logits_of(model, inputs):
    with torch.inference_mode():
        return model(**inputs).logits


def test_the_folder_gives_the_same_model_back(kind_and_supernet, tmp_path):
    kind, supernet = kind_and_supernet
    inputs = make_inputs(kind)
    for number, config in enumerate(with_blocks_left_out(supernet)):
        model, folder = supernet.extract(config), tmp_path / str(number)
        assert widths_of(model) == config
        export = export_submodel(model, folder, ["safetensors"])
        assert (export.config, export.parameters) == (config, supernet.cost(config).parameters)
        again = load_submodel(folder)
        assert widths_of(again) == config
        assert torch.equal(logits_of(again, inputs), logits_of(model, inputs))
        content = json.loads((folder / "submodel.json").read_text())
        assert (content["attention"], content["ffn"]) == (list(config.attention), list(config.ffn))
        export_submodel(again, tmp_path / f"{number} again", ["safetensors"])
        twice = load_submodel(tmp_path / f"{number} again")
        assert widths_of(twice) == config
        assert torch.equal(logits_of(twice, inputs), logits_of(model, inputs))


STOCK = [
    SubmodelConfig(36, (36, 0, 36), (40, 0, 40)),
    SubmodelConfig(36, (0, 24, 0), (0, 40, 0)),
    SubmodelConfig(36, (0, 0, 0), (0, 0, 0)),
]


@pytest.mark.parametrize("config", STOCK)
def test_a_shallower_network_is_a_stock_folder(tmp_path, config):
    supernet, inputs = make_supernet("vit"), make_inputs("vit")
    model = supernet.extract(config)
    assert export_submodel(model, tmp_path / "out", ["safetensors"]).stock
    plain = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert len(plain.vit.layers) == sum(map(bool, config.ffn))
    torch.testing.assert_close(logits_of(plain, inputs), logits_of(model, inputs), **CLOSE)
    assert widths_of(load_submodel(tmp_path / "out")) == config


@pytest.mark.parametrize(
    "config", [SubmodelConfig(36, (36, 0, 36), (40,) * 3), SubmodelConfig(36, (36,) * 3, (0,) * 3)]
)
def test_a_single_block_is_beyond_the_library_alone(kind_and_supernet, tmp_path, config):
    _, supernet = kind_and_supernet
    assert not export_submodel(supernet.extract(config), tmp_path / "out", ["safetensors"]).stock


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_norms_that_are_left_are_beyond_the_library_alone(kind, tmp_path):
    for number, config in enumerate(STOCK):
        model = make_supernet(kind).extract(config)
        assert not export_submodel(model, tmp_path / str(number), ["safetensors"]).stock


def test_the_card_names_what_is_left_out(tmp_path):
    supernet = make_supernet("vit")
    export_submodel(supernet.extract(UNEVEN), tmp_path / "out", ["safetensors"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- attention widths 0, 20, 12\n" in card
    assert "- left out (width 0): attention of layer 1; FFN of layer 1, 3\n" in card
    export_submodel(supernet.extract(supernet.full), tmp_path / "full", ["safetensors"])
    assert "left out" not in (tmp_path / "full" / "README.md").read_text()


def test_widths_are_those_of_the_weights_whatever_the_configuration_says():
    model = make_supernet("vit").extract(UNEVEN)
    model.config.submodel["attention"][1] = 24
    assert widths_of(model) == SubmodelConfig(36, (20, 12), (40, 0))
    model.config.submodel = "nonsense"
    assert widths_of(model) == SubmodelConfig(36, (20, 12), (40, 0))
    del model.config.submodel
    assert widths_of(model) == SubmodelConfig(36, (20, 12), (40, 0))


def test_a_folder_of_other_blocks_than_it_says_is_refused(tmp_path):
    export_submodel(make_supernet("bert").extract(UNEVEN), tmp_path / "out", ["safetensors"])
    path = tmp_path / "out" / "submodel.json"
    content = json.loads(path.read_text())
    for changes in ({"attention": [4, 20, 12]}, {"ffn": [0, 0, 0]}, {"ffn": [0, 40, -1]}, {"attention": [0] * 4}):
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(CheckpointError, match=r"export it again"):
            load_submodel(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_graphs_of_every_format(kind, tmp_path):
    supernet = make_supernet(kind, **names())
    model = supernet.extract(UNEVEN)
    # each is read back and compared: float32 formats must agree
    export = export_submodel(
        model,
        tmp_path / "out",
        tuple(FORMATS.keys() - {"safetensors-float16"}),
        processor=processor_for(supernet),
        data=split_for(supernet),
        calibration=split_for(supernet, "train"),
    )
    for found in export.formats:
        assert found.max_logit_difference < (1e-4 if found.format in ("safetensors", "pt2", "onnx") else 0.5)
    inputs = make_inputs(kind, batch=5, tokens=21)
    for name in ("pt2", "onnx"):
        graph = GraphClassifier(tmp_path / "out" / FORMATS[name][0], model.config, tuple(inputs))
        torch.testing.assert_close(logits_of(graph, inputs), logits_of(model, inputs), **CLOSE)
