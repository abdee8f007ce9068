"""The code that the budget explorer offers recreates the submodel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_supernet, write_text_checkpoint

from raffm_utils import Supernet
from raffm_utils.deployment import widths_of
from raffm_utils.supernet import BUNDLED_FOLDER, bundled
from raffm_utils.widgets import code_of


def run(code: str, **known: object) -> dict[str, object]:
    names = dict(known)
    exec(code, names)
    return names


def test_code_recreates_the_same_weights(tmp_path, monkeypatch):
    folder = write_text_checkpoint(tmp_path / 'a "quoted" checkpoint', "bert")
    monkeypatch.chdir(tmp_path)
    supernet = Supernet.from_pretrained(folder.name)
    config = supernet.space.sample(None, np.random.default_rng(0))
    code = code_of(supernet, config)
    monkeypatch.chdir(tmp_path.anchor)  # the path must hold from anywhere
    model = run(code)["model"]
    assert widths_of(model) == config
    expected = supernet.extract(config).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_supernet_that_was_never_on_disk_has_to_be_there():
    supernet = make_supernet()
    config = supernet.space.smallest()
    code = code_of(supernet, config)
    assert "from_pretrained" not in code
    assert widths_of(run(code, supernet=supernet)["model"]) == config


@pytest.mark.skipif(not bundled(), reason="no bundled checkpoint")
def test_bundled_checkpoints_and_those_of_the_hub_go_by_their_names():
    supernet = make_supernet()
    supernet.folder = BUNDLED_FOLDER / bundled()[0]
    assert f'from_pretrained("{bundled()[0]}")' in code_of(supernet, supernet.full)
    supernet.folder = Path("/cache/hub/models--some-one--a.model_b/snapshots/0123abc")
    assert 'from_pretrained("some-one/a.model_b")' in code_of(supernet, supernet.full)
    supernet.folder = Path("/somewhere") / bundled()[0]
    assert f'from_pretrained("/somewhere/{bundled()[0]}")' in code_of(supernet, supernet.full)
