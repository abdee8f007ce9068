"""Folders of strangers: whatever they hold, none of their code is run, and what is refused is refused early."""

import ast
import builtins
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_supernet, write_text_checkpoint
from helpers.federated import make_processor

from raffm_utils.errors import CheckpointError
from raffm_utils.federated.foundations import foundation
from raffm_utils.supernet import Supernet, checkpoints

PACKAGE = Path(checkpoints.__file__).parent.parent
CONFIG = "config.json"


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
            if not called.endswith(".from_pretrained") or called.startswith(("Supernet.", "network.")):
                continue
            found += 1
            assert any(word.arg == "trust_remote_code" for word in node.keywords), f"{path}: {ast.unparse(node)}"
    assert found >= 3
