"""Weight files that are not what they seem, and paths as people write them: each named, with a remedy that helps."""

import json
import shutil
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


def _in_shards(folder: Path, kind: str, form: str = "safetensors") -> Path:
    """The same network in several files, as the library saves large ones."""
    (folder / WEIGHTS).unlink()
    make_model(kind).save_pretrained(folder, max_shard_size="20KB")
    index = folder / f"{WEIGHTS}.index.json"
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    if form == "bin":
        for path in folder.glob("model-*-of-*.safetensors"):
            torch.save(load_file(path), folder / f"pytorch_{path.stem}.bin")
            path.unlink()
        text = index.read_text().replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
    return folder


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_shards_are_read(tmp_path, kind, form):
    folder = _checkpoint(tmp_path / "net", kind)
    whole = Supernet.from_pretrained(folder).fingerprint()
    assert Supernet.from_pretrained(_in_shards(folder, kind, form)).fingerprint() == whole


def test_shards_that_are_not_there_or_elsewhere(tmp_path):
    folder = _in_shards(_checkpoint(tmp_path / "net"), "vit")
    index = folder / f"{WEIGHTS}.index.json"
    good = json.loads(index.read_text())
    names = sorted(set(good["weight_map"].values()))
    shutil.copyfile(folder / names[0], tmp_path / "elsewhere.safetensors")
    (folder / "inside").mkdir()
    for wrong in ("../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors"), "inside/x.safetensors", "x.bin"):
        weight_map = good["weight_map"] | {"classifier.weight": wrong}
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=r"which is no \.safetensors file of this folder"):
            Supernet.from_pretrained(folder)
    for content in ([], {}, {"weight_map": {}}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="no 'weight_map' of names and files"):
            Supernet.from_pretrained(folder)
    index.write_text(json.dumps(good))
    save_file(load_file(folder / names[0]) | load_file(folder / names[1]), folder / names[1])
    with pytest.raises(CheckpointError, match="in another shard as well"):
        Supernet.from_pretrained(folder)
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"{names[1]}, one of {len(names)} shards, is not there: fetch it into"):
        Supernet.from_pretrained(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"shards without an index \(model-.* fetch the index"):
        Supernet.from_pretrained(folder)


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_variants(tmp_path, kind):
    folder = _checkpoint(tmp_path / "net", kind)
    (folder / WEIGHTS).unlink()
    make_model(kind).save_pretrained(folder, variant="fp16")
    with pytest.raises(CheckpointError, match=r"a variant, or shards .*\(model\.fp16.*\(variant=\.\.\.\) and save it"):
        Supernet.from_pretrained(folder)


def test_other_kinds_of_files_under_the_name_of_weights(tmp_path):
    folder = _checkpoint(tmp_path / "net")
    good = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_text("\n<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(CheckpointError, match="a web page instead of the weights: sign in"):
        Supernet.from_pretrained(folder)
    (folder / WEIGHTS).write_bytes(good)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    torch.save(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"as torch\.save writes it: rename it to pytorch_model\.bin"):
        Supernet.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(good)
    with pytest.raises(CheckpointError, match=r"holds safetensors: rename it to model\.safetensors"):
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
