"""Weight files that are not what they seem, and paths as people write them: each named, with a remedy that helps."""

import json
from pathlib import Path

import pytest
import torch
from conftest import FAMILY_NAMES, make_model, make_split, make_supernet, write_text_checkpoint
from safetensors.torch import load_file, save_file

from raffm_utils.deployment import export_submodel, load_submodel
from raffm_utils.errors import CheckpointError
from raffm_utils.evaluation import read_sweep, sweep
from raffm_utils.supernet import Supernet, checkpoints

WEIGHTS = "model.safetensors"


def _checkpoint(folder: Path, kind: str = "vit") -> Path:
    supernet = make_supernet(kind)
    checkpoints.save(folder, supernet.model, supernet.spec, None, torch.float32)
    return folder


@pytest.mark.parametrize("how", [{"max_shard_size": "20KB"}, {"variant": "fp16"}], ids=["shards", "variant"])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_shards_and_variants(tmp_path, kind, how):
    folder = _checkpoint(tmp_path / "net", kind)
    (folder / WEIGHTS).unlink()
    make_model(kind).save_pretrained(folder, **how)
    with pytest.raises(CheckpointError, match=r"shards or in a variant \(model.*save_pretrained\(folder, max_shard"):
        Supernet.from_pretrained(folder)


def test_a_pointer_of_git_lfs(tmp_path):
    folder = _checkpoint(tmp_path / "net")
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 86000000\n")
    with pytest.raises(CheckpointError, match="pointer of Git LFS instead of the weights: run `git lfs install`"):
        Supernet.from_pretrained(folder)


OTHER = {
    "sparse": lambda t: t.to_sparse(),
    "without values": lambda t: t.to("meta"),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t > 0,
    "int8": lambda t: (127 * t).to(torch.int8),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")  # torch takes quantized tensors out of service
@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_plain_tensor(tmp_path, name):
    folder = _checkpoint(tmp_path / "net")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors | {"classifier.weight": OTHER[name](tensors["classifier.weight"])}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        Supernet.from_pretrained(folder)


@pytest.mark.parametrize(("value", "good"), [(1e300, False), (float("nan"), False), (0.25, True)])
def test_doubles_are_checked_as_the_numbers_they_become(tmp_path, value, good):
    folder = _checkpoint(tmp_path / "net")
    tensors = load_file(folder / WEIGHTS)
    tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], value, dtype=torch.float64)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if good:
        assert set(Supernet.from_pretrained(folder).model.classifier.weight.flatten().tolist()) == {value}
        return
    with pytest.raises(CheckpointError, match=r"classifier\.weight holds 240 values .* infinite in float32"):
        Supernet.from_pretrained(folder)


def test_positions_that_are_counted_from_no_padding_token(tmp_path):
    folder = write_text_checkpoint(tmp_path / "net", "roberta")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"pad_token_id": None}))
    with pytest.raises(CheckpointError, match="pad_token_id"):
        Supernet.from_pretrained(folder)


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    _checkpoint(home / "net")
    supernet = Supernet.from_pretrained("~/net")
    assert supernet.name == "net"
    config = supernet.space.smallest()
    export_submodel(supernet.extract(config), "~/client", ("safetensors",))
    assert load_submodel("~/client").config.hidden_size == load_submodel(home / "client").config.hidden_size == 25
    rows = sweep(supernet, [config], make_split(), "~/rows.jsonl", progress=False)
    assert read_sweep("~/rows.jsonl") == read_sweep(home / "rows.jsonl") == rows
    assert not list(here.iterdir())
