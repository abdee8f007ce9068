"""The names of weights in files: those of the hub, which other versions of the library know, however they were read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAMILY_NAMES, make_inputs, make_model, make_supernet
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raffm_utils.deployment import export_submodel, load_submodel
from raffm_utils.space import FAMILIES, SubmodelConfig
from raffm_utils.supernet import Supernet, checkpoints

UNIFORM = SubmodelConfig(36, (36,) * 3, (40,) * 3)
SHALLOWER = SubmodelConfig(36, (36, 0, 36), (40, 0, 40))  # of ViT, whose layers are then two
OLDER = ("transformers==4.49.0", "tokenizers==0.21.4", "huggingface_hub==0.36.0")


def _names(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


def _logits(model, kind):
    with torch.inference_mode():
        return model(**make_inputs(kind)).logits


@pytest.fixture(params=FAMILY_NAMES)
def kind(request):
    return request.param


def _named_as_in_memory(kind, folder):
    """A checkpoint folder as it was written before, with the names that the library has in memory."""
    supernet = make_supernet(kind)
    checkpoints.save(folder, supernet.model, supernet.spec, None, torch.float32)
    save_file(supernet.model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_what_is_written_has_the_names_that_the_library_writes(kind, tmp_path):
    make_model(kind).save_pretrained(tmp_path / "library")
    wanted = _names(tmp_path / "library")
    read = Supernet.from_pretrained(_named_as_in_memory(kind, tmp_path / "memory"))
    assert (_names(tmp_path / "memory") == wanted) == (kind != "vit"), "ViT is named otherwise in memory"
    for name, supernet in {"made": make_supernet(kind), "read": read}.items():
        folder = tmp_path / name
        supernet.model.save_pretrained(folder / "full")
        supernet.extract(UNIFORM).save_pretrained(folder / "view")
        supernet.extract(UNIFORM, copy=True).save_pretrained(folder / "copy")
        supernet.narrowed(UNIFORM).model.save_pretrained(folder / "narrowed")
        assert export_submodel(supernet.extract(UNIFORM), folder / "exported", ("safetensors",)).stock
        checkpoints.save(folder / "checkpoint", supernet.model, supernet.spec, None, torch.float16)
        for path in folder.iterdir():
            assert _names(path) == wanted, path.name


def test_saving_leaves_the_model_as_it_is(kind, tmp_path):
    supernet = make_supernet(kind)
    before = supernet.model.config.to_dict()
    checkpoints.save(tmp_path, supernet.model, supernet.spec, None, torch.float16)
    assert supernet.model.config.to_dict() == before
    assert {p.dtype for p in supernet.model.parameters()} == {torch.float32}


def test_both_namings_are_read(kind, tmp_path):
    supernet = make_supernet(kind)
    checkpoints.save(tmp_path / "hub", supernet.model, supernet.spec, None, torch.float32)
    for folder in (tmp_path / "hub", _named_as_in_memory(kind, tmp_path / "memory")):
        again = Supernet.from_pretrained(folder)
        assert again.fingerprint() == supernet.fingerprint()
        assert torch.equal(_logits(again.extract(UNIFORM), kind), _logits(supernet.extract(UNIFORM), kind))
    export_submodel(supernet.extract(UNIFORM), tmp_path / "exported", ("safetensors",))
    model = load_submodel(tmp_path / "exported")
    save_file(model.state_dict(), tmp_path / "exported" / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(_logits(load_submodel(tmp_path / "exported"), kind), _logits(model, kind))


READ = """
import json, sys
import torch, transformers
from safetensors.torch import load_file, save_file
assert transformers.__version__ == "4.49.0", transformers.__version__
for folder, auto_class in json.loads(sys.argv[1]).items():
    model, report = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), (folder, report)
    with torch.inference_mode():
        save_file({"logits": model.eval()(**load_file(folder + "/inputs")).logits}, folder + "/logits")
"""


@pytest.fixture
def older(tmp_path):
    """A folder with version 4 of the library, which many clients have; nothing else of the environment changes."""
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target")
    try:
        subprocess.run(
            [sys.executable, *install, tmp_path / "older", *OLDER], check=True, capture_output=True, timeout=150
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{OLDER[0]} cannot be installed beside this version: {error}")
    return tmp_path / "older"


def test_version_4_of_the_library_answers_the_same(tmp_path, older):
    wanted = {}
    for kind in FAMILY_NAMES:
        supernet = make_supernet(kind)
        for config in (UNIFORM, SHALLOWER) if kind == "vit" else (UNIFORM,):
            folder = tmp_path / f"{kind}-{len(wanted)}"
            model = supernet.extract(config)
            assert export_submodel(model, folder, ("safetensors",)).stock
            wanted[str(folder)] = FAMILIES[kind].auto_class, _logits(model, kind)
        folder = tmp_path / f"{kind}-full"
        checkpoints.save(folder, supernet.model, supernet.spec, None, torch.float32)
        wanted[str(folder)] = FAMILIES[kind].auto_class, _logits(supernet.model, kind)
    for folder in wanted:
        save_file(make_inputs(Path(folder).name.partition("-")[0]), Path(folder) / "inputs")
    classes = json.dumps({folder: auto_class for folder, (auto_class, _) in wanted.items()})
    environment = os.environ | {"PYTHONPATH": str(older), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", READ, classes], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for folder, (_, logits) in wanted.items():
        torch.testing.assert_close(load_file(Path(folder) / "logits")["logits"], logits, rtol=1e-4, atol=1e-4)
