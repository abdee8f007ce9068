"""The model card of an export: what a checkpoint says stands in it as text, and nothing of it takes effect."""

import html
import json

import pytest
import yaml
from conftest import make_supernet

from raffm_utils.deployment.export import Export, export_submodel, model_card
from raffm_utils.space import SubmodelConfig

HOSTILE = "x]\nlicense: mit\n---\n# Another card\n<script>alert(1)</script>`[a](http://b)|\x1b[2J"


def _export(labels: tuple[str, ...] = ("a", "b"), **about: object) -> Export:
    return Export(about, "vit", "AutoModel", True, SubmodelConfig(4, (4,), (4,)), 1, labels, {})


def _head(card: str) -> object:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_what_a_checkpoint_says_does_not_leave_its_place():
    about = dict.fromkeys(("checkpoint", "fingerprint", "chosen"), HOSTILE)
    card = model_card(
        HOSTILE, _export(("<img src=x onerror=alert(1)>", HOSTILE), provenance={"dataset": HOSTILE}, **about)
    )
    assert _head(card) == {"library_name": "transformers", "datasets": [HOSTILE]}
    assert card.count("\n---\n") == 1
    assert card.count("\n# ") == 1
    text, provenance = card.split("## Provenance")
    for sign in ("<img", "<script", "\x1b", "license: mit\n"):
        assert sign not in text.split("---\n", 2)[2]
    assert "&#91;a&#93;(http" in text, "no link outside of backticks"
    assert "<img src=x onerror=alert(1)>" in html.unescape(text), "it can still be read"
    assert json.loads(provenance.strip().removeprefix("```json\n").removesuffix("\n```")) == {"dataset": HOSTILE}


@pytest.mark.parametrize("dataset", ["fashion_mnist", "owner/name", "yes", "1e3", "a: b", "#"])
def test_the_data_set_stays_a_name(dataset):
    assert _head(model_card("net", _export(provenance={"dataset": dataset}))) == {
        "library_name": "transformers",
        "datasets": [dataset],
    }


def test_plain_names_stand_in_a_card_as_they_are(tmp_path):
    supernet = make_supernet("vit")
    about = {"checkpoint": "vit-small_fashion.mnist", "provenance": {"dataset": "fashion_mnist"}}
    export_submodel(supernet.extract(supernet.space.smallest()), tmp_path / "client", ["safetensors"], about=about)
    card = (tmp_path / "client" / "README.md").read_text()
    assert "# client\n" in card
    assert "of the scalable network `vit-small_fashion.mnist`" in card
    assert "LABEL_0, LABEL_1" in card
