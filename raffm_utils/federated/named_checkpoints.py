"""The named checkpoints that this project trains: how each is made, from the foundation model on."""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import SPLIT_SEED, Split, load_split
from ..errors import CheckpointError, TrainingError
from ..evaluation import Evaluation, evaluate
from ..files import RUNS_FOLDER
from ..space import SIZE_TOKENS, family_of, near_share
from ..supernet import PER_HEAD, ElasticSpec, Supernet, checkpoints
from ..writing import check_target, explained, held, write_atomically
from . import foundations
from .classifier import calibrate_classifier, fit_classifier
from .influence import with_zero
from .ordering import concentrate, keep_ffn_means
from .recipe import Recipe
from .rounds import count_run
from .simulation import run

ALIGNMENT_EXAMPLES, FITTING_CLIENTS, ROUND_EXAMPLES = 400, 10, 500


@dataclass(frozen=True)
class Named:
    """A checkpoint by name: data, foundation model, elastic space and recipe."""

    dataset: str
    foundation: str  # what `foundations.foundation` takes
    attention: tuple[int, ...] | tuple[tuple[int, ...], ...]  # choices of all layers, or of each
    ffn: tuple[int, ...] | tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]
    recipe: Recipe
    image_size: int | None = None
    classifier_scale: float = 8.0  # of the classifier that training starts from, see `fit_classifier`
    keep_means: bool = False  # whether narrowed FFNs keep the mean of their output, see `keep_ffn_means`
    then: Recipe | None = None  # a second part of the training, by the same clients
    after: str | None = None  # another recipe: training starts from what it gave, instead of the foundation model
    every: int = 1  # rounds from one look at validation to the next; a stopped run goes on from the last
    watched: tuple[float, ...] = ()  # shares of the parameters at which a submodel is looked at too
    calibrated: bool = False  # whether the classifier is scaled at the end, see `calibrate_classifier`

    @property
    def parts(self) -> tuple[Recipe, ...]:
        return (self.recipe,) if self.then is None else (self.recipe, self.then)


SMALL_TEXT = Recipe(
    setting="small",
    rounds=40,
    local_epochs=2,
    batch_size=16,
    learning_rate=4e-5,
    cosine_rounds=40,
    cooldown_rounds=0,
    local_warmup_steps=2,
    dirichlet=0.5,
    server_momentum=0.8,
    full_participant=True,
    weighting="impurity",
    divide="even_noise",
    freeze_tables=True,
    balance_labels=True,
    average_rounds=15,
    autocast=False,
    sized_by="macs",
)
BERT_MINI: dict[str, Any] = {
    "foundation": "minilm-l6",
    "attention": tuple(range(384, 167, -24)),
    "ffn": tuple(range(1536, 767, -128)),
    # Norms behind the blocks keep the residual stream from being rotated, so that narrowing it breaks the network
    "hidden": (384,),
    "classifier_scale": 1.0,
    "calibrated": True,
}
CIFAR_LARGE = Recipe(
    setting="large",
    rounds=44,
    batch_size=16,
    learning_rate=1e-4,
    final_learning_rate_share=0.1,
    cosine_rounds=44,
    cooldown_rounds=8,
    server_momentum=0.5,
    average_rounds=6,
    horizontal_flip=True,
    full_rate_rms=0.05,
    patch_share=0.5,
    autocast=False,
)
# A second part on all patches, with a rate that falls to 0: under Large of mostly small ones, which lag most
CIFAR_LARGE_THEN = replace(
    CIFAR_LARGE, rounds=12, learning_rate=5e-5, cosine_rounds=24, cooldown_rounds=12, average_rounds=4, size_power=4.0
)
CIFAR_SMALL = replace(
    CIFAR_LARGE, setting="small", full_participant=True, rounds=40, cosine_rounds=56, cooldown_rounds=16
)
CIFAR_SMALL_THEN = replace(
    CIFAR_SMALL, rounds=8, learning_rate=5e-5, cosine_rounds=16, cooldown_rounds=8, average_rounds=3
)
CIFAR: dict[str, Any] = {
    "foundation": "dinov2-small",
    "image_size": 70,
    "attention": tuple(range(384, 191, -24)),
    "ffn": tuple(range(1536, 767, -128)),
    "hidden": (384, 360),
    "keep_means": True,
}
# From 3% of the parameters to all: few participants, one of them always with the full network, in many short rounds.
# A higher rate or students that count in full cost the large networks what they had learned before.
RANGE = Recipe(
    setting="large-and-small",
    participants=2,
    one_strong=True,
    sizes="cap",
    rounds=480,
    local_steps=8,
    more_steps=2.0,
    batch_size=32,
    learning_rate=1.25e-4,
    final_learning_rate_share=0.0,
    cosine_rounds=480,
    cooldown_rounds=0,
    local_warmup_steps=3,
    carry_moments=True,
    second_moment=0.99,
    students=3,
    student_weight=0.5,
    full_rate_rms=0.05,
    horizontal_flip=True,
    random_shift=4,
    server_momentum=0.0,
)
# What is still rising then is the middle and the small sizes
RANGE_THEN = replace(RANGE, rounds=360, first_round=480, learning_rate=8e-5, cosine_rounds=360, student_weight=0.75)
# Layers whose block changes the answers of the first part's network least, by `block_influence` on 400 validation
# images: these blocks may be left out.
OPTIONAL_ATTENTION, OPTIONAL_FFN = (1, 2, 3, 4, 5, 6, 8, 9), (2, 3, 4, 5, 6, 7, 8, 9)
RECIPES = {
    # what the next one starts from: widths of half and more, no block left out
    "vit-small-fashion-mnist-first-large-budget": Named(
        dataset="fashion_mnist",
        foundation="dinov2-small",
        image_size=56,
        attention=tuple(range(384, 191, -24)),
        ffn=tuple(range(1536, 767, -128)),
        hidden=tuple(range(384, 263, -24)),
        recipe=Recipe(setting="large", horizontal_flip=True),
    ),
    "vit-small-fashion-mnist-large-budget": Named(
        dataset="fashion_mnist",
        foundation="dinov2-small",
        image_size=56,
        attention=with_zero((384, 288, 192, 96), 12, OPTIONAL_ATTENTION),
        ffn=with_zero((1536, 1024, 640, 256), 12, OPTIONAL_FFN),
        hidden=(384, 288, 216, 168),
        recipe=RANGE,
        then=RANGE_THEN,
        after="vit-small-fashion-mnist-first-large-budget",
        every=10,
        watched=(0.5, 0.2, 0.05),
    ),
    "vit-small-cifar10-large-budget": Named("cifar10", recipe=CIFAR_LARGE, then=CIFAR_LARGE_THEN, **CIFAR),
    "vit-small-cifar10-small-budget": Named("cifar10", recipe=CIFAR_SMALL, then=CIFAR_SMALL_THEN, **CIFAR),
    "vit-small-cifar100-large-budget": Named("cifar100", recipe=CIFAR_LARGE, then=CIFAR_LARGE_THEN, **CIFAR),
    "bert-mini-movie-reviews-small-budget": Named("movie_reviews", recipe=SMALL_TEXT, **BERT_MINI),
    # the hub has all 67,349 phrases: a client would have nine times as much to do in one round
    "bert-mini-sst2-small-budget": Named(
        "sst2",
        recipe=replace(SMALL_TEXT, local_steps=10),
        **BERT_MINI,
    ),
}


def train(name: str, folder: Path | None = None) -> Path:
    """Train a named checkpoint (resuming what `runs/<name>` holds) and write it; returns its folder.

    Raises `TrainingError` or `CheckpointError`, before any training, if `folder` holds anything but a checkpoint, if
    it or `runs` cannot be written to, or if another process trains there.
    """
    if name not in RECIPES:
        raise TrainingError(f"no recipe {name!r}: known are {', '.join(RECIPES)}")
    named, folder = RECIPES[name], Path(folder or checkpoints.BUNDLED_FOLDER / name).expanduser()
    check_target(folder, CheckpointError, checkpoints.CONFIG_FILE)
    runs = [RUNS_FOLDER / f"{name}{part}" for part in ("", "-then")[: len(named.parts)]]
    for part in runs:
        with held(part, TrainingError):  # or says why not, before minutes of preparation
            pass
    supernet, processor = start(named)
    train_split = load_split(named.dataset, "train", processor=processor)
    validation = load_split(named.dataset, "validation", processor=processor)
    print(f"{len(train_split):,} training and {len(validation):,} validation examples")
    counted = [costs for recipe in named.parts for costs in count_run(supernet, recipe, train_split.labels)]
    work = sum(cost.macs for costs in counted for cost in costs)
    print(f"clients have to compute {work / 1e12:,.1f} T MACs in all")
    if named.after is None:
        align(named, supernet, train_split, validation)
    few = validation.subset(range(min(ROUND_EXAMPLES, len(validation))))
    sizes = {f"{share:.0%}": near_share(supernet.space, share, np.random.default_rng(0)) for share in named.watched}
    for part, recipe in zip(runs, named.parts, strict=True):
        results = run(supernet, train_split, few, recipe, part, every=named.every, watched=sizes)
    if named.calibrated:
        calibrate_classifier(supernet, validation)
    # what is stored is what is measured: float16 weights, read back
    provenance = _provenance(named)
    checkpoints.save(folder, supernet.model, _spec(named, provenance), processor, torch.float16)
    supernet = Supernet.from_pretrained(folder)
    test = load_split(named.dataset, "test", processor=processor)
    measured = {
        size: evaluate(supernet.extract(config), test)
        for size, config in (("full", supernet.space.largest()), ("smallest", supernet.space.smallest()))
    }
    provenance["accuracy"] = {size: _describe(result, "test") for size, result in measured.items()}
    provenance["last_round"] = results[-1].to_json()
    checkpoints.save(folder, supernet.model, _spec(named, provenance), processor, torch.float16)
    card = checkpoint_card(name, _provenance(named), named.parts, supernet, measured)
    with explained(folder, CheckpointError):
        write_atomically(folder / "README.md", card)
    return folder


def align(named: Named, supernet: Supernet, train: Split, validation: Split) -> None:
    """Order the axes of a foundation model and fit its classifier, in place: where federated training starts from."""
    # the fused kernel is slower than plain products for so few tokens, above all backwards
    supernet.model.set_attn_implementation("eager")
    few = validation.subset(range(min(ALIGNMENT_EXAMPLES, len(validation))))
    concentrate(supernet, few)
    if named.keep_means:
        keep_ffn_means(supernet, few)
    theirs = len(train) // named.recipe.clients * FITTING_CLIENTS
    fit_classifier(supernet, train.subset(range(min(theirs, len(train)))), named.classifier_scale)


def start(named: Named) -> tuple[Supernet, Any]:
    """What training starts from as a supernet, and its processor: the foundation model, or what another recipe gave.

    That other one is trained first, unless `runs/<its name>/checkpoint` holds it.
    """
    from ..data import DATASETS

    if named.after is not None:
        folder = RUNS_FOLDER / named.after / "checkpoint"
        first = Supernet.from_pretrained(folder if folder.is_dir() else train(named.after, folder))
        # the fused kernel is slower than plain products for so few tokens, above all backwards
        first.model.set_attn_implementation("eager")
        return Supernet(first.model, first.family, _spec(named, {})), first.processor
    names = DATASETS[named.dataset].label_names
    model, processor = foundations.foundation(named.foundation, names, named.image_size)
    return Supernet(model, family_of(model.config.model_type), _spec(named, {})), processor


def _spec(named: Named, provenance: dict[str, Any]) -> ElasticSpec:
    return ElasticSpec("recipe", named.attention, named.ffn, named.hidden, PER_HEAD, provenance)


def _provenance(named: Named) -> dict[str, Any]:
    return {
        **({"after": named.after} if named.after else {}),
        "foundation_model": foundations.DESCRIPTIONS.get(named.foundation, named.foundation),
        "dataset": named.dataset,
        "split_seed": SPLIT_SEED,
        "clients": named.recipe.clients,
        "rounds": sum(recipe.rounds for recipe in named.parts),
        "budget_setting": named.recipe.setting,
        "recipe": asdict(named.recipe),
        **({"then": asdict(named.then)} if named.then else {}),
        "versions": {library: importlib.metadata.version(library) for library in ("torch", "transformers")},
    }


def _describe(result: Evaluation, split: str) -> dict[str, Any]:
    names = ("accuracy", "low", "high", "f1", "loss", "examples")
    return {"split": split, **{name: getattr(result, name) for name in names}}


def checkpoint_card(
    name: str, provenance: dict[str, Any], parts: Sequence[Recipe], supernet: Supernet, measured: dict[str, Evaluation]
) -> str:
    """The README of a trained checkpoint: what it is, how it was made, and what was measured on the test split."""
    space, recipe = supernet.space, parts[0]
    of = "" if supernet.family.is_image else f" of {SIZE_TOKENS} tokens"
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        f"datasets: [{provenance['dataset']}]",
        "---",
        f"# {name}",
        "",
        f"A scalable (super) network: {space.count():,} submodels can be cut from it and used as they are.",
        "",
        f"Foundation model: {provenance['foundation_model']}.",
        f"Trained on {provenance['dataset']} by {recipe.clients} simulated clients,",
        " and then ".join(f"{part.participants} a round, {part.rounds} rounds" for part in parts)
        + f", system setting *{recipe.setting}*, "
        + ("IID shards." if recipe.dirichlet is None else f"Dirichlet({recipe.dirichlet}) label skew."),
        *([f"It started from what `make train NAME={provenance['after']}` gives."] if "after" in provenance else []),
        "",
        f"| network | parameters | without embeddings | MACs{of} "
        "| test accuracy | 95 % interval | macro-F1 | examples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, config in (("full", space.largest()), ("smallest", space.smallest())):
        cost, result = supernet.cost(config, SIZE_TOKENS), measured[size]
        lines.append(
            f"| {size} | {cost.parameters:,} | {cost.encoder_parameters:,} | {cost.macs:,} | {result.accuracy:.2%} | "
            f"{result.between('.2%')} | {result.f1:.2%} | {result.examples:,} |"
        )
    lines += ["", f"Made by `make train NAME={name}`, with this recipe:", ""]
    for place, part in enumerate(parts):
        lines += ["And then:", ""] if place else []
        lines += ["```json", json.dumps(asdict(part), indent=1), "```", ""]
    return "\n".join(lines)
