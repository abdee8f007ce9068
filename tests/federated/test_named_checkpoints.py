"""The named checkpoints: their recipes fit together, and training writes a folder that loads back."""

import json
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from helpers.federated import (
    EVEN_SPACE,
    LABELS,
    RECIPE,
    learnable_split,
    make_even_supernet,
    make_processor,
    one_thread,  # noqa: F401
)
from PIL import Image
from safetensors.torch import load_file

from raffm_utils.data import DATASETS, SPLIT_SEED
from raffm_utils.errors import TrainingError
from raffm_utils.evaluation import Evaluation, evaluate
from raffm_utils.federated import count_round, device_caps, partition, plan_round
from raffm_utils.federated import named_checkpoints as recipes
from raffm_utils.space import SYSTEM_SETTINGS, SubmodelConfig
from raffm_utils.supernet import Supernet
from raffm_utils.writing import held

SHAPES = {"dinov2-small": (12, 6, 384, 1536), "minilm-l6": (6, 12, 384, 1536)}  # layers, heads, hidden, FFN


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_consistent(name: str):
    named = recipes.RECIPES[name]
    assert named.dataset in DATASETS
    assert named.recipe.setting in SYSTEM_SETTINGS
    assert len(device_caps(named.recipe.setting, named.recipe.clients)) == named.recipe.clients
    assert 0 < named.recipe.participants <= named.recipe.clients
    assert (named.image_size or 0) % 14 == 0
    layers, heads, hidden, ffn = SHAPES[named.foundation]
    full = SubmodelConfig(hidden, (hidden,) * layers, (ffn,) * layers)
    space = recipes._spec(named, {}).space(full, heads)  # raises when it does not fit
    assert space.largest() == full, "the full network is one of them"
    assert space.count() > 1000
    assert name == name.lower()
    assert named.dataset.replace("_", "-") in name


def test_budget_setting_and_name_agree():
    for name, named in recipes.RECIPES.items():
        budget = named.recipe.setting.partition("-")[0]  # with smaller devices too, in "large-and-small"
        assert name.endswith(f"-{budget}-budget")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(TrainingError, match=r"'nope': known are .*vit-small-fashion-mnist-large-budget"):
        recipes.train("nope")


START = recipes.start  # the fixture below puts another in its place
TINY = recipes.Named(
    dataset="made_up",
    image_size=16,
    attention=tuple(EVEN_SPACE["atten_out_space"]),
    ffn=tuple(EVEN_SPACE["inter_hidden_space"]),
    hidden=tuple(EVEN_SPACE["residual_hidden_space"]),
    recipe=replace(RECIPE, rounds=3, dirichlet=0.5),
    foundation="a made-up network",
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A recipe named "tiny" around a tiny network and made-up data; gives the folder and what was loaded."""
    loaded: list[str] = []

    def load_split(name, split, *, limit=None, processor=None):
        assert (name, processor is not None) == ("made_up", True)
        loaded.append(split)
        examples, seed = {"train": (240, 1), "validation": (100, 2), "test": (150, 3)}[split]
        return learnable_split(examples, seed, split)

    def start(named):
        supernet = make_even_supernet(
            id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}
        )
        return supernet, make_processor()

    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setattr(recipes, "start", start)
    monkeypatch.setattr(recipes, "load_split", load_split)
    monkeypatch.setattr(recipes, "RUNS_FOLDER", tmp_path / "runs")
    monkeypatch.setattr(recipes, "ALIGNMENT_EXAMPLES", 60)
    monkeypatch.setattr(recipes, "ROUND_EXAMPLES", 80)
    return SimpleNamespace(folder=tmp_path / "tiny", loaded=loaded)


def test_training_writes_a_checkpoint_that_loads_back(tiny, capsys):
    assert recipes.train("tiny", tiny.folder) == tiny.folder
    owned = [len(part) for part in partition(learnable_split(240, 1).labels, 8, 0.5, 0)]
    macs = sum(c.macs for n in range(3) for c in count_round(make_even_supernet(), TINY.recipe, n, owned))
    assert f"clients have to compute {macs / 1e12:,.1f} T MACs" in capsys.readouterr().out
    supernet = Supernet.from_pretrained(tiny.folder)
    assert supernet.name == "tiny"
    assert supernet.space == make_even_supernet().space
    assert supernet.spec.head_slicing == "per_head"
    assert supernet.processor.to_dict() == make_processor().to_dict()

    provenance = supernet.spec.provenance
    assert provenance["foundation_model"] == "a made-up network"
    assert provenance["dataset"] == "made_up"
    assert provenance["split_seed"] == SPLIT_SEED
    assert provenance["clients"] == 8
    assert provenance["rounds"] == 3
    assert provenance["budget_setting"] == "large"
    assert provenance["recipe"]["dirichlet"] == 0.5
    assert provenance["versions"]["torch"] == version("torch")
    assert provenance["versions"]["transformers"] == version("transformers")
    assert provenance["last_round"]["round"] == 3

    # what it says of itself is what is measured on what was stored
    test = learnable_split(150, 3, "test")
    for size, config in (("full", supernet.space.largest()), ("smallest", supernet.space.smallest())):
        measured, said = evaluate(supernet.extract(config), test), provenance["accuracy"][size]
        assert said["split"] == "test"
        assert said["examples"] == 150
        for key in ("accuracy", "low", "high"):
            assert said[key] == pytest.approx(getattr(measured, key), abs=1e-9)
    assert provenance["accuracy"]["full"]["low"] > 0.5

    dtypes = {tensor.dtype for tensor in load_file(tiny.folder / "model.safetensors").values()}
    assert dtypes == {torch.float16}


def test_the_model_card_tells_split_counts_and_interval(tiny):
    recipes.train("tiny", tiny.folder)
    card = (tiny.folder / "README.md").read_text(encoding="utf-8")
    supernet = Supernet.from_pretrained(tiny.folder)
    for text in (
        "# tiny",
        "a made-up network",
        f"{supernet.space.count():,} submodels",
        "8 simulated clients",
        "4 a round, 3 rounds",
        "system setting *large*",
        "Dirichlet(0.5) label skew",
        "test accuracy",
        "95 % interval",
        "macro-F1",
        "make train NAME=tiny",
    ):
        assert text in card
    rows = {line.split(" | ")[0].strip("| "): line for line in card.splitlines() if line.startswith("| ")}
    for size, config in (("full", supernet.space.largest()), ("smallest", supernet.space.smallest())):
        said, cost = supernet.spec.provenance["accuracy"][size], supernet.cost(config)
        cells = [cell.strip() for cell in rows[size].strip("|").split("|")]
        assert cells == [
            size,
            f"{cost.parameters:,}",
            f"{cost.encoder_parameters:,}",
            f"{cost.macs:,}",
            f"{said['accuracy']:.2%}",
            f"{said['low']:.2%} to {said['high']:.2%}",
            f"{said['f1']:.2%}",
            "150",
        ]
    recipe = json.loads(card.partition("```json")[2].partition("```")[0])
    assert recipe == supernet.spec.provenance["recipe"]


def test_the_test_split_is_opened_only_when_training_is_over(tiny, monkeypatch):
    run, order = recipes.run, []

    def watch(supernet, train, validation, recipe, folder, **options):
        order.append(list(tiny.loaded))
        assert (train.split, len(train)) == ("train", 240)
        assert (validation.split, len(validation)) == ("validation", 80)
        return run(supernet, train, validation, recipe, folder, **options)

    monkeypatch.setattr(recipes, "run", watch)
    recipes.train("tiny", tiny.folder)
    assert order == [["train", "validation"]]
    assert tiny.loaded == ["train", "validation", "test"]


def test_a_run_folder_that_cannot_be_had_is_told_before_anything_is_loaded(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "start", lambda named: pytest.fail("made a network"))
    monkeypatch.setitem(recipes.RECIPES, "tiny", replace(TINY, then=TINY.recipe))
    with (
        held(tmp_path / "runs" / "tiny-then", TrainingError),
        pytest.raises(TrainingError, match="tiny-then is in use"),
    ):
        recipes.train("tiny", tiny.folder)
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(recipes, "RUNS_FOLDER", tmp_path / "a file")
    with pytest.raises(TrainingError, match=f"{tmp_path}/a file/tiny cannot be written"):
        recipes.train("tiny", tiny.folder)
    assert not tiny.loaded


def test_training_that_was_stopped_goes_on_to_the_same_checkpoint(tiny, monkeypatch, tmp_path):
    expected = Supernet.from_pretrained(recipes.train("tiny", tiny.folder)).fingerprint()
    monkeypatch.setattr(recipes, "RUNS_FOLDER", tmp_path / "other-runs")
    with monkeypatch.context() as patch:
        patch.setattr(recipes.checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recipes.train("tiny", tmp_path / "again")

    # all rounds are stored: what is left is to write and to measure
    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr("raffm_utils.federated.simulation.local_update", never)
    assert Supernet.from_pretrained(recipes.train("tiny", tmp_path / "again")).fingerprint() == expected


def test_a_recipe_says_how_often_and_at_which_sizes_training_is_looked_at(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(recipes.RECIPES, "tiny", replace(TINY, every=2, watched=(0.7, 0.5)))
    recipes.train("tiny", tiny.folder)
    lines = [json.loads(line) for line in (tmp_path / "runs" / "tiny" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines if "full" in line] == [2, 3]
    assert [list(line.get("watched", ())) for line in lines] == [[], ["70%", "50%"], ["70%", "50%"]]


def test_a_second_part_goes_on_from_the_first_in_a_folder_of_its_own(tiny, monkeypatch, tmp_path, capsys):
    alone = Supernet.from_pretrained(recipes.train("tiny", tiny.folder))
    then = replace(TINY.recipe, rounds=2, size_power=3.0, learning_rate=1e-4)
    monkeypatch.setitem(recipes.RECIPES, "tiny", replace(TINY, then=then))
    runs, rounds = [], len(list((tmp_path / "runs").iterdir()))
    run = recipes.run

    def watch(supernet, train, validation, recipe, folder, **options):
        runs.append((recipe, folder.name, {name: p.clone() for name, p in supernet.model.named_parameters()}))
        return run(supernet, train, validation, recipe, folder, **options)

    monkeypatch.setattr(recipes, "run", watch)
    both = Supernet.from_pretrained(recipes.train("tiny", tmp_path / "both"))
    assert rounds == 1
    assert [(recipe, name) for recipe, name, _ in runs] == [(TINY.recipe, "tiny"), (then, "tiny-then")]
    for name, parameter in alone.model.named_parameters():
        assert torch.equal(runs[1][2][name].half(), parameter.half()), "the second begins where the first ended"
    assert both.fingerprint() != alone.fingerprint()
    assert both.spec.provenance["rounds"] == 5
    assert both.spec.provenance["then"]["size_power"] == 3.0
    card = (tmp_path / "both" / "README.md").read_text(encoding="utf-8")
    assert "4 a round, 3 rounds and then 4 a round, 2 rounds" in card
    assert json.loads(card.split("```json")[2].partition("```")[0]) == both.spec.provenance["then"]


def test_cifar100_trains_by_its_name_on_a_made_up_set_of_its_schema(monkeypatch, tmp_path):
    """The columns are as published, with two kinds of labels; only the network and the number of rounds are smaller."""
    rng = np.random.default_rng(0)
    for split, rows in (("train", 400), ("test", 100)):
        images = [Image.fromarray(pixels) for pixels in rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)]
        labels = {"fine_label": [row % 100 for row in range(rows)], "coarse_label": [row % 20 for row in range(rows)]}
        features = datasets.Features({"img": datasets.Image(), **{name: datasets.Value("int64") for name in labels}})
        (tmp_path / "cifar100").mkdir(exist_ok=True)
        table = datasets.Dataset.from_dict({"img": images, **labels}, features=features)
        table.to_parquet(tmp_path / "cifar100" / f"{split}.parquet")
    monkeypatch.setenv("RAFFM_DATA", str(tmp_path))
    monkeypatch.setenv("RAFFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(recipes, "RUNS_FOLDER", tmp_path / "runs")
    name = "vit-small-cifar100-large-budget"
    named = recipes.RECIPES[name]
    small = {"attention": (96, 48), "ffn": (192, 96), "hidden": (96, 72), "foundation": "tiny-vit", "image_size": 28}
    few = {part: replace(getattr(named, part), rounds=2, clients=20) for part in ("recipe", "then")}
    monkeypatch.setitem(recipes.RECIPES, name, replace(named, **few, **small))
    supernet = Supernet.from_pretrained(recipes.train(name, tmp_path / name))
    assert supernet.model.config.num_labels == 100
    assert supernet.spec.provenance["dataset"] == "cifar100"
    assert supernet.spec.provenance["accuracy"]["full"]["examples"] == 100
    assert supernet.model.config.id2label[99] == "worm"


def test_provenance_can_be_told_by_what_is_known_before_training():
    provenance = recipes._provenance(TINY)
    assert json.loads(json.dumps(provenance)) == provenance
    result = recipes._describe(Evaluation(0.9, 0.8, 0.95, 0.88, 0.3, 100, 55.5), "test")
    assert result == {
        "split": "test", "accuracy": 0.9, "low": 0.8, "high": 0.95, "f1": 0.88, "loss": 0.3, "examples": 100
    }  # fmt: skip


def test_the_first_plan_of_a_recipe_can_be_drawn():
    """On the real space, with the costs of a network of that shape."""
    import transformers

    from raffm_utils.space import FAMILIES

    for named in recipes.RECIPES.values():
        layers, heads, hidden, ffn = SHAPES[named.foundation]
        names = DATASETS[named.dataset].label_names
        shape = dict(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ffn,
            num_labels=len(names),
        )  # fmt: skip
        with torch.device("meta"):
            if named.image_size:
                config = transformers.ViTConfig(**shape, image_size=named.image_size, patch_size=14)
                model = transformers.ViTForImageClassification(config)
            else:
                model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape))
        supernet = Supernet(model, FAMILIES[model.config.model_type], recipes._spec(named, {}))
        for recipe in named.parts:
            plan = plan_round(supernet, recipe, 0)
            assert len(plan) == recipe.participants
            assert plan[0][1] == supernet.space.largest()
            assert recipe.sizes != "spread" or plan[-1][1] == supernet.space.smallest()


def test_training_may_start_from_what_another_recipe_gave(tiny, monkeypatch):
    second = replace(TINY, after="tiny", recipe=replace(TINY.recipe, rounds=1, learning_rate=0.0))
    made_up = recipes.start
    monkeypatch.setitem(recipes.RECIPES, "second", second)
    monkeypatch.setattr(recipes, "start", lambda named: START(named) if named.after else made_up(named))
    first = recipes.RUNS_FOLDER / "tiny" / "checkpoint"
    trained = Supernet.from_pretrained(recipes.train("second", tiny.folder))
    before = Supernet.from_pretrained(first)
    assert before.spec.provenance["rounds"] == 3, "the first part was trained first"
    assert trained.spec.provenance["after"] == "tiny"
    card = (tiny.folder / "README.md").read_text(encoding="utf-8")
    assert "It started from what `make train NAME=tiny` gives." in card
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name]), "nothing is learned at a rate of 0"
    written = (first / "model.safetensors").stat().st_mtime_ns
    recipes.train("second", tiny.folder)
    assert (first / "model.safetensors").stat().st_mtime_ns == written, "and once"
