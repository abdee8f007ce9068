"""Checkpoint folders: every fault is refused by name, nothing in a folder is ever run, and what is saved comes back."""

import json
import os
import pickle
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import (
    FAMILY_NAMES,
    GOLDEN,
    SPACE,
    TEXT_FAMILIES,
    make_inputs,
    make_supernet,
    make_tokenizer,
    some_configs,
    write_text_checkpoint,
)
from safetensors.torch import load_file, save_file

from raffm_utils import Supernet
from raffm_utils.errors import CheckpointError, ElasticSpaceError
from raffm_utils.space import SubmodelConfig
from raffm_utils.supernet import ElasticSpec, checkpoints

SPACE_FILE, CONFIG, WEIGHTS, BIN = "elastic_space.json", "config.json", "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good ViT checkpoint, for the test to damage."""
    supernet = make_supernet("vit")
    checkpoints.save(tmp_path / "good", supernet.model, supernet.spec, None, torch.float32)
    return tmp_path / "good"


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _bin_instead(folder: Path, save: Callable[[dict[str, torch.Tensor], Path], None]) -> None:
    save(load_file(folder / WEIGHTS), folder / BIN)
    (folder / WEIGHTS).unlink()


def _says(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} is not in: {error.value}"


# --- writing


@pytest.mark.parametrize("fault", [OSError("full"), KeyboardInterrupt()])
def test_a_save_that_is_stopped_leaves_the_old_folder_whole(folder, monkeypatch, fault):
    (folder / "README.md").write_text("a card")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = make_supernet("vit", seed=5)

    def stop(*_: Any, **__: Any) -> None:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("transformers.modeling_utils.safe_save_file", stop)
        with pytest.raises(CheckpointError if isinstance(fault, OSError) else KeyboardInterrupt):
            checkpoints.save(folder, other.model, other.spec, None, torch.float32)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    checkpoints.save(folder, other.model, other.spec, None, torch.float32)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, SPACE_FILE}, "nothing of the old one is left"
    again = Supernet.from_pretrained(folder).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in other.model.state_dict().items())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "precious").write_text("x")
    supernet = make_supernet("vit")
    with pytest.raises(CheckpointError, match=r"is not empty .*precious"):
        checkpoints.save(tmp_path, supernet.model, supernet.spec, None, torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


# --- the elastic space


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ("not JSON",)),
        ("", ("not JSON",)),
        ("[" * 100_000, ("not JSON",)),
        ("[48]", ("expected an object", "[48]")),
        ("null", ("expected an object", "None")),
        ('{"residual_hidden_space": "wide"}', ("residual_hidden_space", "wide", "whole numbers")),
        ('{"residual_hidden_space": [36.5]}', ("residual_hidden_space", "36.5")),
        ('{"residual_hidden_space": [NaN]}', ("residual_hidden_space", "nan")),
        ('{"residual_hidden_space": [true]}', ("residual_hidden_space", "True")),
        ('{"residual_hidden_space": [48, 0]}', ("residual_hidden_space", "[48, 0]")),
        ('{"residual_hidden_space": [[48]]}', ("residual_hidden_space", "[[48]]")),
        ('{"inter_hidden_space": [64, -8]}', ("inter_hidden_space", "-8", "0 where the block may be left out")),
        ('{"inter_hidden_space": []}', ("inter_hidden_space", "[]")),
        ('{"inter_hidden_space": [[64], []]}', ("inter_hidden_space", "[]")),
        ('{"inter_hidden_space": {"a": 1}}', ("inter_hidden_space", "{'a': 1}")),
        ('{"inter_hidden_space": [64, "None"]}', ("inter_hidden_space", "None")),
        ('{"residual_hidden_space": [50, 48]}', ("residual_hidden_space", "50", "full width 48")),
        ('{"inter_hidden_space": [65]}', ("inter_hidden_space", "65", "full width 64")),
        ('{"atten_out_space": [52]}', ("atten_out_space", "52", "full width 48")),
        ('{"atten_out_space": [48, 46]}', ("atten_out_space", "46", "multiples of 4")),
        ('{"atten_out_space": [[48], [48]]}', ("atten_out_space", "2 lists", "3 layers")),
        ('{"head_slicing": "diagonal"}', ("head_slicing", "diagonal", "per_head")),
        ('{"head_slicing": ["per_head"]}', ("head_slicing",)),
        ('{"provenance": "here"}', ("provenance", "here")),
    ],
)
def test_bad_elastic_space(folder, content, parts):
    (folder / SPACE_FILE).write_text(content)
    with pytest.raises(ElasticSpaceError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / SPACE_FILE), *parts)
    assert len(str(error.value)) < 600


def test_elastic_space_that_is_no_text(folder):
    (folder / SPACE_FILE).write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ElasticSpaceError, match=SPACE_FILE):
        Supernet.from_pretrained(folder)


def test_elastic_space_in_the_configuration(folder):
    (folder / SPACE_FILE).unlink()
    with pytest.raises(CheckpointError) as missing:
        Supernet.from_pretrained(folder)
    _says(missing, str(folder), SPACE_FILE, "elastic_config")
    _edit(folder / CONFIG, elastic_config={"atten_out_space": [48, 24], "residual_hidden_space": [48, 32]})
    supernet = Supernet.from_pretrained(folder)
    assert supernet.space.hidden == (48, 32)
    assert supernet.space.attention == ((48, 24),) * 3
    assert supernet.space.ffn == ((64,),) * 3
    assert supernet.slicing_heads is None, "published checkpoints slice contiguously"
    _edit(folder / CONFIG, elastic_config={"atten_out_space": [47]})
    with pytest.raises(ElasticSpaceError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / CONFIG), "elastic_config", "atten_out_space", "47")


def test_what_is_not_elastic(folder):
    for content in (
        {},
        {"atten_out_space": "None", "inter_hidden_space": "None", "residual_hidden_space": "None"},
        {"atten_out_space": None, "inter_hidden_space": 64, "residual_hidden_space": [48]},
    ):
        (folder / SPACE_FILE).write_text(json.dumps(content))
        supernet = Supernet.from_pretrained(folder)
        assert supernet.space.count() == 1
        assert supernet.space.largest() == supernet.full


@pytest.mark.parametrize(
    ("attention", "ffn"),
    [([48, 0], [64, 32, 0]), ([[48], [48, 0], [0]], [[64, 0], [64], [64, 32, 0]]), (0, "None")],
    ids=["for all", "per layer", "always"],
)
def test_blocks_that_may_be_left_out(folder, attention, ffn):
    content = {"atten_out_space": attention, "inter_hidden_space": ffn, "residual_hidden_space": [48, 36]}
    (folder / SPACE_FILE).write_text(json.dumps(content))
    supernet = Supernet.from_pretrained(folder)
    space = supernet.space
    nested = isinstance(attention, list) and isinstance(attention[0], list)
    assert space.attention == tuple(map(tuple, attention if nested else [attention if attention else [0]] * 3))
    assert (0 in space.ffn[0]) == (ffn != "None")
    for config in some_configs(supernet, 12):
        cost = supernet.cost(config)
        assert cost.parameters == sum(p.numel() for p in supernet.extract(config).parameters())
        assert SubmodelConfig.from_arc(config.to_arc()) == config
    again = ElasticSpec.from_json(json.loads(json.dumps(supernet.spec.to_json())), "again")
    assert again.space(supernet.full, supernet.heads) == space


@pytest.mark.parametrize("value", [[48, 24], [9999], "None", "nonsense", None])
def test_out_hidden_space_has_no_effect(folder, value):
    content = {"inter_hidden_space": [64, 32]}
    (folder / SPACE_FILE).write_text(json.dumps(content))
    plain = Supernet.from_pretrained(folder)
    (folder / SPACE_FILE).write_text(json.dumps({**content, "out_hidden_space": value}))
    assert Supernet.from_pretrained(folder).space == plain.space


# --- the configuration


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ("not JSON",)),
        ("[]", ("expected an object", "list")),
        ("{}", ("model_type=None", "vit")),
        ('{"model_type": "gpt2"}', ("model_type='gpt2'", "vit, bert")),
        ('{"model_type": ["vit"]}', ("model_type=['vit']",)),
    ],
)
def test_bad_configuration_file(folder, content, parts):
    (folder / CONFIG).write_text(content)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / CONFIG), *parts)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_attention_heads", 5), ("num_attention_heads", 0), ("hidden_size", "wide"), ("hidden_size", -48),
     ("hidden_act", "nosuch"), ("patch_size", 0), ("intermediate_size", None)],
)  # fmt: skip
def test_impossible_configuration(folder, key, value):
    _edit(folder / CONFIG, **{key: value})
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder))


def test_configuration_of_another_network(folder):
    _edit(folder / CONFIG, intermediate_size=128)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / WEIGHTS), "fc1.weight [64, 48], needed [128, 48]", "does not fit config.json")
    _edit(folder / CONFIG, intermediate_size=64, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"missing tensors: .*layers?\.3\.") as error:
        Supernet.from_pretrained(folder)
    _edit(folder / CONFIG, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"unexpected tensors: .*layers?\.2\."):
        Supernet.from_pretrained(folder)


def test_missing_files(folder):
    (folder / WEIGHTS).rename(folder / "elsewhere")
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder), WEIGHTS, BIN)
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / CONFIG), "missing")


# --- weights


def _change(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> str:
    tensors = load_file(folder / WEIGHTS)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    key = next(name for name in tensors if "layer" in name and name.endswith("weight") and tensors[name].ndim == 2)
    change({"key": key, "tensors": tensors})  # type: ignore[dict-item]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return key


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["tensors"][c["key"]].view(-1)[:3].fill_(float("nan")), "3 values that are NaN"),
        (lambda c: c["tensors"][c["key"]].view(-1)[5:6].fill_(float("-inf")), "1 values that are NaN or infinite"),
        (lambda c: c["tensors"].pop(c["key"]), "missing tensors"),
        (
            lambda c: c["tensors"].update({"vit.layers.0.made.up": torch.ones(2)}),
            "unexpected tensors: vit.layers.0.made",
        ),
        (lambda c: c["tensors"].update({c["key"]: c["tensors"][c["key"]][:-1].clone()}), "mismatched tensors"),
    ],
)
def test_bad_weights(folder, change, said):
    key = _change(folder, change)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / WEIGHTS), said)
    if "unexpected" not in said:  # old and new key names of this tensor have these numbers in common
        assert re.search(r"layers?\." + re.search(r"layers?\.(\d+)\.", key)[1], str(error.value))


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_modules_beside_the_network_are_left_out_and_named(kind, tmp_path):
    """As plain transformers does it; a pooler that the head does not use, and the head of the pre-training."""
    supernet = make_supernet(kind)
    checkpoints.save(tmp_path / "net", supernet.model, supernet.spec, None, torch.float32)
    path, base = tmp_path / "net" / WEIGHTS, supernet.model.base_model_prefix
    good = load_file(path)
    extra = [f"{base}.pool.dense.weight", "cls.predictions.decoder.bias", "lm_head.dense.weight", "lm_head.bias"]
    save_file(good | {name: torch.ones(3) for name in extra}, path)
    with pytest.warns(UserWarning, match=r"cls.predictions.decoder.bias, .* and 1 more: not part of this network"):
        assert Supernet.from_pretrained(tmp_path / "net").fingerprint() == supernet.fingerprint()
    layer = re.sub(r"\.0\..*", "", supernet.family.attention_module.format(layer=0))
    for inside in (f"{base}.embeddings.made_up", f"{layer}.0.adapter.weight", f"{layer}.9.adapter.weight", "scale"):
        save_file(good | {inside: torch.ones(3)}, path)
        with pytest.raises(CheckpointError, match=rf"unexpected tensors: {re.escape(inside)}.*or remove them from"):
            Supernet.from_pretrained(tmp_path / "net")


@pytest.mark.parametrize("size", [0, 5, 100, -1, -5000])
def test_truncated_safetensors(folder, size):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:size])
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / WEIGHTS), "truncated", "fetch")


class _Evil:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_bin_files_are_read(tmp_path, kind, zipped):
    supernet = make_supernet(kind)
    checkpoints.save(tmp_path, supernet.model, supernet.spec, None, torch.float32)
    _bin_instead(tmp_path, lambda t, path: torch.save(t, path, _use_new_zipfile_serialization=zipped))
    assert Supernet.from_pretrained(tmp_path).fingerprint() == supernet.fingerprint()


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_a_pickle_that_would_run_code_does_not(folder, tmp_path, form):
    marker = tmp_path / "it ran"

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        content = {**tensors, "classifier.bias": _Evil(marker)}
        if form == "plain pickle":
            path.write_bytes(pickle.dumps(_Evil(marker)))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")

    _bin_instead(folder, save)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / BIN), "refused", "safetensors")
    assert not marker.exists()
    if form == "plain pickle":
        pickle.loads((folder / BIN).read_bytes())
    else:
        torch.load(folder / BIN, weights_only=False)
    assert marker.exists(), "otherwise this test would prove nothing"


@pytest.mark.parametrize("content", ["module", "list", "number inside", "array inside", "optimizer"])
def test_bin_files_of_another_kind(folder, content):
    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        made = {
            "module": lambda: torch.nn.Linear(2, 2),
            "list": lambda: list(tensors.values()),
            "number inside": lambda: {**tensors, "epoch": 3},
            "array inside": lambda: {**tensors, "classifier.bias": tensors["classifier.bias"].numpy()},
            "optimizer": lambda: {"model": tensors, "step": 3},
        }
        torch.save(made[content](), path)

    _bin_instead(folder, save)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / BIN))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_bin(folder, zipped, share):
    _bin_instead(folder, lambda t, path: torch.save(t, path, _use_new_zipfile_serialization=zipped))
    content = (folder / BIN).read_bytes()
    (folder / BIN).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / BIN), "truncated")


def test_safetensors_go_before_a_pickle(folder, tmp_path):
    (folder / BIN).write_bytes(pickle.dumps(_Evil(tmp_path / "it ran")))
    Supernet.from_pretrained(folder)
    assert not (tmp_path / "it ran").exists()


def test_code_in_a_folder_is_not_run(folder, tmp_path):
    marker = tmp_path / "it ran"
    code = f"import os\nos.mkdir({str(marker)!r})\nclass C: pass\n"
    (folder / "modeling_own.py").write_text(code)
    maps = dict.fromkeys(("AutoConfig", "AutoModelForImageClassification"), f"modeling_own.C")  # noqa: F541
    _edit(folder / CONFIG, auto_map=maps)
    assert Supernet.from_pretrained(folder).layers == 3
    assert not marker.exists()


# --- finding a folder


def test_unknown_names():
    for name in ("no-such-checkpoint", "./no/such", "/no/such", "a/b/c", "~/no-such"):
        with pytest.raises(CheckpointError) as error:
            Supernet.from_pretrained(name)
        _says(error, name, "path")


@pytest.fixture
def online(monkeypatch):
    """The client's settings as on a machine that believes it has a network."""
    from huggingface_hub import constants

    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "HF_HUB_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def _seconds_to_fail() -> float:
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained("raffm-tests/no-such-checkpoint")
    seconds = time.perf_counter() - start
    _says(error, "raffm-tests/no-such-checkpoint", "go online", "path")
    return seconds


def test_offline_by_setting(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _seconds_to_fail() < 1


@pytest.mark.usefixtures("online")
def test_offline_because_nothing_answers(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert _seconds_to_fail() < 2


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("hanging", ["getaddrinfo", "create_connection"])
def test_offline_where_names_are_never_found(monkeypatch, hanging):
    def hang(*_: object, **__: object) -> None:
        time.sleep(8)
        raise OSError("at last")

    monkeypatch.setattr(socket, hanging, hang)
    assert min(_seconds_to_fail() for _ in range(2)) < 2


# --- saving and loading again


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip(kind_and_supernet, tmp_path, dtype):
    kind, supernet = kind_and_supernet
    target = tmp_path / "a" / "name-of-its-own"
    checkpoints.save(target, supernet.model, supernet.spec, None, dtype)
    again = Supernet.from_pretrained(target)
    assert again.name == "name-of-its-own"
    assert again.space == supernet.space
    assert again.spec.head_slicing == supernet.spec.head_slicing
    assert again.spec.to_json() == supernet.spec.to_json()
    stored = load_file(target / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    for (name, one), (other_name, other) in zip(
        supernet.model.state_dict().items(), again.model.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert other.dtype == torch.float32
        assert torch.equal(one.to(dtype).float(), other)
    if dtype is torch.float32:
        assert again.fingerprint() == supernet.fingerprint()
    with torch.inference_mode():
        one, other = (net.model(**make_inputs(kind)).logits for net in (supernet, again))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 if dtype is torch.float32 else 0.05)
    assert json.loads((target / SPACE_FILE).read_text())["residual_hidden_space"] == SPACE["residual_hidden_space"]


def test_saved_folders_load_with_the_library_alone(folder):
    supernet = Supernet.from_pretrained(folder)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        one, other = (net(**make_inputs("vit")).logits for net in (supernet.model, model))
    torch.testing.assert_close(one, other)


def test_processor_and_class_names_come_back(tmp_path):
    supernet = make_supernet("vit")
    supernet.model.config.id2label = dict(enumerate("abcde"))
    processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3])
    checkpoints.save(tmp_path, supernet.model, supernet.spec, processor, torch.float16)
    again = Supernet.from_pretrained(tmp_path)
    assert again.processor.to_dict() == processor.to_dict()
    assert again.model.config.id2label == dict(enumerate("abcde"))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        _ = Supernet.from_pretrained(tmp_path).processor


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_text_folders_as_the_library_writes_them(kind, tmp_path):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, kind))
    library = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = supernet.processor(["a very good film .", "bad"], padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        torch.testing.assert_close(supernet.model(**inputs).logits, library(**inputs).logits)
    assert supernet.family.model_type == kind
    assert (supernet.tokens, Supernet.from_pretrained(tmp_path, tokens=16).tokens) == (None, 16)
    with pytest.raises(ElasticSpaceError, match="tokens=25"):
        Supernet.from_pretrained(tmp_path, tokens=25)
    # 24 positions, of which RoBERTa leaves those up to its padding's unused
    assert supernet.processor.model_max_length == (22 if kind == "roberta" else 24)
    assert make_tokenizer(kind).model_max_length > 10**9


def test_a_tokenizer_that_knows_its_own_shorter_limit_keeps_it(tmp_path):
    write_text_checkpoint(tmp_path, "bert")
    make_tokenizer("bert", model_max_length=9).save_pretrained(tmp_path)
    assert Supernet.from_pretrained(tmp_path).processor.model_max_length == 9


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
@pytest.mark.parametrize("left", ["nothing", "tokenizer_config.json"])
def test_a_tokenizer_that_is_missing(kind, left, tmp_path):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, kind))
    (tmp_path / "tokenizer.json").unlink()
    if left == "nothing":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError) as error:
        _ = supernet.processor
    _says(error, str(tmp_path), "knows no words", "tokenizer.json", "foundation model")


def test_a_tokenizer_of_another_network(tmp_path):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, "bert", vocab_size=10))
    with pytest.raises(CheckpointError) as error:
        _ = supernet.processor
    _says(error, "up to 10", "network 10", "foundation model")


@pytest.mark.parametrize("kind", TEXT_FAMILIES)
def test_position_numbers_in_older_text_folders_are_passed_over(kind, tmp_path):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path, kind))
    numbers = {f"{kind}.embeddings.position_ids": torch.arange(24)[None]}
    save_file(load_file(tmp_path / WEIGHTS) | numbers, tmp_path / WEIGHTS, metadata={"format": "pt"})
    assert Supernet.from_pretrained(tmp_path).fingerprint() == supernet.fingerprint()


def test_reference_folders_with_old_names_are_read(tmp_path):
    shutil.copytree(GOLDEN / "vit-legacy", tmp_path / "copy")
    supernet = Supernet.from_pretrained(tmp_path / "copy", attn_implementation="eager")
    assert supernet.model.config._attn_implementation == "eager"
    checkpoints.save(tmp_path / "ours", supernet.model, supernet.spec, None, torch.float32)
    again = Supernet.from_pretrained(tmp_path / "ours")
    assert again.fingerprint() == supernet.fingerprint()
    assert again.space == supernet.space


def test_the_processor_is_loaded_once(tmp_path):
    supernet = Supernet.from_pretrained(write_text_checkpoint(tmp_path / "bert", "bert"))
    assert supernet.processor is supernet.processor


def write_hub_cache(home: Path, repository: str, revisions: dict[str, Path]) -> dict[str, Path]:
    """A cache as the hub's client leaves it; returns the snapshot of every revision."""
    root, snapshots = home / ("models--" + repository.replace("/", "--")), {}
    (root / "refs").mkdir(parents=True)
    for number, (revision, folder) in enumerate(revisions.items()):
        commit = f"{number + 10:x}" * 40
        (root / "refs" / revision).write_text(commit)
        snapshots[revision] = shutil.copytree(folder, root / "snapshots" / commit)
    return snapshots


def test_a_checkpoint_has_the_name_of_its_folder_or_repository(tmp_path, monkeypatch):
    folder = write_text_checkpoint(tmp_path / "my-net", "bert")
    (folder / "sub").mkdir()
    for place, name in (
        (folder, "."),
        (folder / "sub", ".."),
        (folder, "sub/.."),
        (tmp_path, "my-net"),
        (tmp_path, folder),
    ):
        monkeypatch.chdir(place)
        supernet = Supernet.from_pretrained(name)
        assert supernet.name == "my-net"
        monkeypatch.chdir(tmp_path.parent)
        assert len(supernet.processor)  # read only now, from the same folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshots = write_hub_cache(tmp_path / "hub", "someone/hub-net", {"main": folder})
    for name in ("someone/hub-net", snapshots["main"]):
        assert Supernet.from_pretrained(name).name == "hub-net"
    with pytest.raises(CheckpointError, match="name of the checkpoint is empty: give a path"):
        Supernet.from_pretrained("")
    (tmp_path / "link").symlink_to(folder)
    assert Supernet.from_pretrained(tmp_path / "link").name == "link"


def test_the_revision_that_was_asked_for_is_loaded(tmp_path, monkeypatch):
    first = write_text_checkpoint(tmp_path / "first", "bert")
    second = shutil.copytree(first, tmp_path / "second")
    tensors = load_file(second / WEIGHTS)
    save_file(tensors | {"classifier.bias": tensors["classifier.bias"] + 1}, second / WEIGHTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshots = write_hub_cache(tmp_path / "hub", "someone/net", {"main": first, "v2": second})
    prints = [Supernet.from_pretrained(folder).fingerprint() for folder in (first, second)]
    for revision, number in ((None, 0), ("main", 0), ("v2", 1), (snapshots["v2"].name, 1)):
        supernet = Supernet.from_pretrained("someone/net", revision=revision)
        assert supernet.fingerprint() == prints[number]
        assert supernet.folder == list(snapshots.values())[number]
    with pytest.raises(CheckpointError, match=r"'someone/net', revision 'v3', is not in the local hub cache"):
        Supernet.from_pretrained("someone/net", revision="v3")
    with pytest.raises(
        CheckpointError, match=r"revision='v2': .*first has no revisions: leave it out, or give a hub id"
    ):
        Supernet.from_pretrained(first, revision="v2")


@pytest.mark.parametrize("given", ["flash_attention_2", "egaer", "", 3])
def test_an_attention_that_cannot_be_is_not_blamed_on_a_file(folder, given):
    with pytest.raises(CheckpointError, match=rf"attn_implementation={given!r}: .*: give 'eager' or 'sdpa'") as error:
        Supernet.from_pretrained(folder, attn_implementation=given)
    assert "config.json" not in str(error.value)


@pytest.mark.parametrize("given", ["attn_implementaton", "num_labels", "dtype", "ignore_mismatched_sizes", "force"])
def test_arguments_that_there_are_not_are_named(folder, given):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{given}'"):
        Supernet.from_pretrained(folder, **{given: 7})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("atten_out_spaces", "atten_out_space"),
        ("attn_out_space", "atten_out_space"),
        ("inter_hiden_space", "inter_hidden_space"),
        ("Residual_hidden_space", "residual_hidden_space"),
        ("headslicing", "head_slicing"),
        ("widths", None),
    ],
)
@pytest.mark.parametrize("inside_config", [False, True])
def test_a_misspelt_key_of_the_space_is_refused(folder, wrong, meant, inside_config):
    content = json.loads((folder / SPACE_FILE).read_text()) | {wrong: [48]}
    (folder / SPACE_FILE).write_text(json.dumps(content))
    if inside_config:
        (folder / SPACE_FILE).unlink()
        _edit(folder / CONFIG, elastic_config=content)
    with pytest.raises(ElasticSpaceError) as error:
        Supernet.from_pretrained(folder)
    _says(error, f"unknown key '{wrong}'", "correct or remove it; known are atten_out_space, ")
    assert ("probably meant as" in str(error.value)) == (meant is not None)
    assert meant is None or f"probably meant as {meant!r}" in str(error.value)


@pytest.mark.parametrize(("file", "key"), [(SPACE_FILE, "residual_hidden_space"), (CONFIG, "num_hidden_layers")])
def test_a_key_given_twice_is_refused(folder, file, key):
    content = json.loads((folder / file).read_text())
    text = json.dumps(content)
    (folder / file).write_text(text[:-1] + f', "{key}": {json.dumps(content[key])}}}')
    with pytest.raises((CheckpointError, ElasticSpaceError)) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder / file), f"the key '{key}' is given twice")


def test_the_keys_of_published_files_are_read(folder):
    content = json.loads((folder / SPACE_FILE).read_text())
    (folder / SPACE_FILE).write_text(json.dumps(content | {"out_hidden_space": [48, 24]}))
    assert Supernet.from_pretrained(folder).space == ElasticSpec.from_json(content, "test").space(
        Supernet.from_pretrained(folder).full, 4
    )


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"num_attention_heads": 0},
        {"num_attention_heads": "4"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 2.5},
        {"hidden_size": -48},
        {"intermediate_size": [64]},
        {"layer_norm_eps": "x"},
        {"hidden_act": "none"},
        {"patch_size": 0},
        {"patch_size": 5},
        {"num_channels": 0},
        {"id2label": None},
    ],
    ids=str,
)
def test_settings_that_make_no_network_are_refused_by_file(folder, change):
    _edit(folder / CONFIG, **change)
    with pytest.raises(CheckpointError) as error:
        Supernet.from_pretrained(folder)
    _says(error, str(folder))
