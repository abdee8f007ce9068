"""Every value of every file of settings, replaced by one that cannot be: the folder loads, or is refused by name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_inputs, make_supernet, write_text_checkpoint
from helpers.federated import make_processor

from raffm_utils.deployment import export_submodel, load_submodel
from raffm_utils.errors import RaffmError
from raffm_utils.supernet import Supernet, checkpoints, quiet

WRONG = (None, -1, 10**9, "x", [], {"a": [float("nan")]})
MOST = 12  # values of a file: the vocabularies of tokenizers have many of a kind


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _replaced(text: str, path: tuple[Any, ...], value: Any) -> str:
    content = json.loads(text)
    *outer, last = path
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return json.dumps(content)


def _use(folder: Path) -> None:
    if (folder / "submodel.json").exists():
        load_submodel(folder)(**make_inputs("vit"))
        return
    supernet = Supernet.from_pretrained(folder)
    assert supernet.processor is not None
    supernet.extract(supernet.space.smallest())


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    kind, path = request.param, tmp_path / "net"
    if kind != "vit" and kind != "client":
        return write_text_checkpoint(path, kind)
    supernet = make_supernet("vit")
    if kind == "client":
        export_submodel(supernet.extract(supernet.space.smallest()), path, ("safetensors",))
    else:
        checkpoints.save(path, supernet.model, supernet.spec, make_processor(), torch.float32)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("vit", "config.json"),
        ("vit", "elastic_space.json"),
        ("vit", "preprocessor_config.json"),
        ("client", "submodel.json"),
        ("client", "config.json"),
        ("bert", "config.json"),
        ("roberta", "tokenizer.json"),
        ("bert", "tokenizer.json"),
        ("bert", "tokenizer_config.json"),
    ],
    indirect=["folder"],
)
def test_a_value_that_cannot_be(folder, file):
    good = (folder / file).read_text()
    places = list(_places(json.loads(good)))
    places = places[:: max(1, len(places) // MOST)]
    _use(folder)
    told = []
    for number, place in enumerate(places):
        for value in (WRONG[number % 6], WRONG[(number + 3) % 6]):
            (folder / file).write_text(_replaced(good, place, value))
            try:
                with quiet("transformers"):
                    _use(folder)
            except RaffmError as error:
                told.append(str(error))
    print(f"{2 * len(places)} folders: {len(told)} refused")  # for SECURITY.md; shown by pytest -s
    assert len(told) > 0.2 * len(places)
    assert all(message.isprintable() and len(message) < 1200 and str(folder) in message for message in told)
