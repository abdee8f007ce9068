"""Folders of strangers: whatever they hold, none of their code is run, and what is refused is refused early."""

import ast
import builtins
import contextlib
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_supernet, write_text_checkpoint
from helpers.bounded import refusal
from helpers.federated import make_processor
from safetensors.torch import load_file, save_file

from raffm_utils.deployment import export_submodel, load_submodel
from raffm_utils.errors import CheckpointError
from raffm_utils.federated.foundations import foundation
from raffm_utils.supernet import Supernet, checkpoints

PACKAGE = Path(checkpoints.__file__).parent.parent
CONFIG, WEIGHTS, BIN = "config.json", "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good ViT checkpoint with its processor, for the test to make a trap of."""
    supernet = make_supernet("vit")
    checkpoints.save(tmp_path / "net", supernet.model, supernet.spec, make_processor(), torch.float32)
    return tmp_path / "net"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- code


@pytest.fixture
def yes(monkeypatch) -> None:
    """Whoever is asked whether to run the code says yes."""
    monkeypatch.setattr(builtins, "input", lambda *_: "y")


@pytest.mark.usefixtures("yes")
def test_the_code_of_an_image_processor_is_not_run_whatever_is_answered(folder, tmp_path):
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    own = {"auto_map": {"AutoImageProcessor": "own.Own"}, "image_processor_type": "OwnProcessor"}
    edit(folder / "preprocessor_config.json", **own)
    with pytest.raises(CheckpointError, match=r"no usable preprocessor_config\.json"):
        _ = Supernet.from_pretrained(folder).processor
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(AttributeError):  # the class is no processor
        transformers.AutoImageProcessor.from_pretrained(folder)
    assert (tmp_path / "ran").exists(), "otherwise this test would prove nothing"


@pytest.mark.usefixtures("yes")
def test_the_code_of_a_tokenizer_is_not_run_whatever_is_answered(tmp_path):
    folder = write_text_checkpoint(tmp_path / "net", "bert")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "OwnTokenizer"}
    edit(folder / "tokenizer_config.json", **own)
    with contextlib.suppress(CheckpointError):  # there may be enough without it
        _ = Supernet.from_pretrained(folder).processor
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("yes")
def test_the_code_of_a_foundation_model_is_not_run_whatever_is_answered(folder, tmp_path):
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: pass\n")
    names = {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own"}
    edit(folder / CONFIG, auto_map=names, model_type="own")
    with pytest.raises(CheckpointError):
        foundation(str(folder), tuple("abcde"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_folder_cannot_ask_for_a_kernel_of_the_hub(folder, key):
    edit(folder / CONFIG, **{key: "someone/own-attention"})
    assert Supernet.from_pretrained(folder).model.config._attn_implementation == "sdpa"


def test_every_call_that_could_run_the_code_of_a_folder_forbids_it():
    found = 0
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if not called.endswith(".from_pretrained") or called.startswith(("Supernet.", "model_class(family")):
                continue
            found += 1
            assert any(word.arg == "trust_remote_code" for word in node.keywords), f"{path}: {ast.unparse(node)}"
    assert found == 2


# --- sizes that a folder claims


def load(folder: Path) -> Callable[[], object]:
    return lambda: Supernet.from_pretrained(folder)


CLAIMS = {
    "num_hidden_layers": (10**5, "num_hidden_layers=100000: they take 1,600,000 tensors, 56 are stored"),
    "num_labels": (3 * 10**7, "num_labels=30000000, but the weights tell 5 apart"),
    "intermediate_size": (4 * 10**6, "describes a network of 1,"),
    "hidden_size": (20_000, "describes a network of "),
    "image_size": (30_000, "describes a network of 675,"),
    "num_channels": (10**9, "describes a network of "),
    "patch_size": (10**6, "describes a network of 144,"),
}


@pytest.mark.parametrize("key", CLAIMS)
def test_a_network_for_which_there_are_no_weights_is_not_built(folder, key):
    value, said = CLAIMS[key]
    content = json.loads((folder / CONFIG).read_text())
    content = {name: part for name, part in content.items() if name not in ("id2label", "label2id")}
    (folder / CONFIG).write_text(json.dumps(content | {key: value}))
    told = refusal(load(folder))
    assert told.startswith(f"{folder / CONFIG}: {said}"), told
    assert "that belongs to the weights" in told


@pytest.mark.parametrize(
    ("key", "value"), [("max_position_embeddings", 10**9), ("vocab_size", 10**9), ("n_layers", 10**6), ("dim", 10**6)]
)
def test_a_text_network_for_which_there_are_no_weights_is_not_built(tmp_path, key, value):
    folder = write_text_checkpoint(tmp_path / "net", "distilbert")
    edit(folder / CONFIG, sinusoidal_pos_embds=True, **{key: value})
    assert "that belongs to the weights" in refusal(load(folder))


def export(folder: Path) -> Path:
    """A submodel that `transformers` alone cannot load."""
    supernet = make_supernet("vit")
    config = supernet.space.smallest()
    export_submodel(supernet.extract(config), folder, ("safetensors",))
    assert not json.loads((folder / "submodel.json").read_text())["stock"]
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden": 10**6}, "tensors do not fit submodel.json"),
        ({"ffn": [10**7] * 3}, "tensors do not fit submodel.json"),
        ({"attention": [4] * 10**5, "ffn": [4] * 10**5}, "100,000 layers, above the limit of 1,000"),
    ],
)
def test_a_submodel_for_which_there_are_no_weights_is_not_built(tmp_path, change, said):
    folder = export(tmp_path / "client")
    edit(folder / "submodel.json", **change)
    assert said in refusal(lambda: load_submodel(folder))


def test_a_submodel_of_larger_pictures_is_not_built(tmp_path):
    folder = export(tmp_path / "client")
    edit(folder / CONFIG, image_size=30_000)
    assert "position_embeddings [1, 5, 25], needed [1, 14062501, 25]" in refusal(lambda: load_submodel(folder))


# --- files that are larger than they look


def bin_instead(folder: Path, **more: torch.Tensor) -> Path:
    tensors = load_file(folder / WEIGHTS) | {name.replace("__", "."): tensor for name, tensor in more.items()}
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / BIN)
    return folder


@pytest.mark.parametrize(("name", "side"), [("classifier__weight", 10**5), ("bomb", 30_000)])
def test_tensors_of_one_stored_number(folder, name, side):
    bin_instead(folder, **{name: torch.zeros(1).expand(side, side)})
    assert f"[{side}, {side}] needs {4 * side**2:,} bytes, of which 4 are stored" in refusal(load(folder))


def test_many_tensors_of_the_same_numbers(folder):
    shared = torch.zeros(10**6)
    bin_instead(folder, **{f"bomb{i}": shared for i in range(2000)})
    assert "MB of tensors share 4." in refusal(load(folder))


def test_an_archive_that_unpacks_to_more_than_it_is(folder):
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / BIN, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("net/data.pkl", "w") as part:
            for _ in range(100):
                part.write(bytes(10**7))
        archive.writestr("net/version", "3")
    assert "that unpacks to 1,000.0 MB" in refusal(load(folder))


def test_an_archive_with_a_name_twice(folder):
    """The check would read one of them, and torch the other."""
    bin_instead(folder)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(folder / BIN, "a") as archive:
        archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"")
    with pytest.raises(CheckpointError, match="holds a name twice"):
        Supernet.from_pretrained(folder)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_allocates_what_it_is_told(folder, zipped):
    tensors: dict[str, Any] = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors | {"bomb": bytearray(3)}, folder / BIN, _use_new_zipfile_serialization=zipped)
    assert "more than plain tensors (__builtin__.bytearray, _codecs.encode), which could run code" in refusal(
        load(folder)
    )


def test_a_header_of_many_names(folder):
    for number, said in ((20_000, "20,000 tensors, above the limit of 10,000"), (500_000, "a header of 29.")):
        names = ",".join(f'"a{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(number))
        header = f"{{{names}}}".encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
        assert said in refusal(load(folder))
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62))
    assert "above the limit of 8.4 MB" in refusal(load(folder))


def test_a_file_of_settings_that_never_ends(folder):
    with (folder / CONFIG).open("r+b") as file:
        file.truncate(10**12)  # takes no room on the disk
    assert "config.json: 1,000,000.0 MB, above the limit of 67.1 MB" in refusal(load(folder))


def test_a_key_given_twice_at_the_end_of_many(folder):
    names = ", ".join(f'"a{i}": 0' for i in range(200_000))
    (folder / CONFIG).write_text(f'{{{names}, "a199999": 1}}')
    assert "the key 'a199999' is given twice" in refusal(load(folder))


# --- what is no file


def put(kind: str, path: Path) -> None:
    if path.exists():
        path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "broken link": path.with_name("nowhere")}[kind])


@pytest.mark.parametrize("file", [CONFIG, "elastic_space.json", WEIGHTS, "submodel.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "broken link"])
def test_what_is_no_ordinary_file(folder, tmp_path, kind, file):
    if file == "submodel.json":
        folder = export(tmp_path / "client")
    put(kind, folder / file)
    told = refusal(lambda: load_submodel(folder) if file == "submodel.json" else Supernet.from_pretrained(folder))
    said = {"folder": "is a folder, where a file is expected", "broken link": "is a link to "}
    assert told.startswith(f"{folder / file} {said.get(kind, 'is a pipe, a socket or a device')}"), told


@pytest.mark.parametrize("name", ["a" * 5000, "x\0y", "x/" + "y" * 5000, "x/\0"])
def test_names_that_the_system_refuses(name):
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(name)
    assert str(error.value).isprintable()


def test_links_to_ordinary_files_are_followed_as_in_the_cache_of_the_hub(folder, tmp_path):
    (tmp_path / "snapshot").mkdir()
    shutil.copytree(folder, tmp_path / "blobs")
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    first, second = (Supernet.from_pretrained(place) for place in (folder, tmp_path / "snapshot"))
    assert first.fingerprint() == second.fingerprint()


# --- what is shown of them


def test_names_of_tensors_are_shown_on_one_line_without_what_a_terminal_acts_on(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"a\n\x1b[2J\u202efine": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    assert r"unexpected tensors: a\n\x1b[2J\u202efine: " in str(error.value)
    assert str(error.value).isprintable()
    save_file(tensors | {"pooler\x1b.weight": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.warns(UserWarning, match=r"pooler\\x1b\.weight: not part of this network"):
        Supernet.from_pretrained(folder)
    save_file(tensors | {"a" * 10**5: torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    assert len(str(error.value)) < 1000
    edit(folder / CONFIG, model_type="v" * 10**5)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    assert len(str(error.value)) < 1000
