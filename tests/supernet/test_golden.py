"""Agreement with the reference implementation, through the public surface."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, GOLDEN_NAMES
from safetensors.torch import load_file

from raffm_utils import SubmodelConfig, Supernet

TOLERANCE = 1e-4


def _content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "golden.json").read_text())


def _tensors(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(model inputs, expected logits)."""
    tensors = load_file(folder / "golden.safetensors")
    logits = {name: tensors.pop(name) for name in list(tensors) if name.startswith("logits_")}
    return tensors, logits


def _run(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


CASES = [(name, number) for name in GOLDEN_NAMES for number in range(len(_content(GOLDEN / name)["cases"]))]


def test_full_network(golden):
    inputs, logits = _tensors(golden)
    supernet = Supernet.from_pretrained(golden)
    expected = _content(golden)["all_params_full"]
    assert (_run(supernet.model, inputs) - logits["logits_full"]).abs().max() < TOLERANCE
    assert (_run(supernet.extract(supernet.full), inputs) - logits["logits_full"]).abs().max() < TOLERANCE
    assert _parameters(supernet.model) == supernet.cost(supernet.full).parameters == expected


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize(("name", "number"), CASES)
def test_submodel(name, number, copy):
    inputs, logits = _tensors(GOLDEN / name)
    case = _content(GOLDEN / name)["cases"][number]
    supernet = Supernet.from_pretrained(str(GOLDEN / name))
    config = SubmodelConfig.from_arc(case["arc"])
    assert config.to_arc() == case["arc"]
    assert config in supernet.space
    model = supernet.extract(config, copy=copy)
    assert (_run(model, inputs) - logits[f"logits_{number}"]).abs().max() < TOLERANCE
    assert _parameters(model) == supernet.cost(config).parameters == case["all_params"]
    weights = sum(p.numel() for key, p in model.named_parameters() if key.endswith(".weight"))
    assert weights / 1e6 == pytest.approx(case["weight_params_million"], abs=1e-9)


def test_the_cases_differ_from_each_other():
    """Otherwise agreement on one would say nothing about another."""
    for name in GOLDEN_NAMES:
        _, logits = _tensors(GOLDEN / name)
        values = list(logits.values())
        gaps = [(a - b).abs().max() for i, a in enumerate(values) for b in values[:i]]
        assert min(gaps) > 10 * TOLERANCE


@pytest.mark.parametrize("number", range(4))
def test_padding_has_no_influence(number):
    folder = GOLDEN / "bert-legacy"
    inputs, logits = _tensors(folder)
    mask = inputs["attention_mask"].bool()
    assert not mask.all(), "the golden batch must be padded"
    case = _content(folder)["cases"][number]
    model = Supernet.from_pretrained(folder).extract(SubmodelConfig.from_arc(case["arc"]))
    other = {**inputs, "input_ids": torch.where(mask, inputs["input_ids"], 7)}
    assert (_run(model, other) - logits[f"logits_{number}"]).abs().max() < TOLERANCE
    for row in range(len(mask)):
        alone = {key: value[row : row + 1, : int(mask[row].sum())] for key, value in inputs.items()}
        assert (_run(model, alone) - logits[f"logits_{number}"][row]).abs().max() < TOLERANCE
