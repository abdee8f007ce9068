"""The figures of this repository, drawn again: stored sweeps, and beneath them what was evaluated just now."""

from pathlib import Path

import numpy as np

from . import checkpoints, evaluation, plotting
from .encoding import Tokens
from .errors import CheckpointError
from .participation import SIZE_TOKENS
from .sources import DATASETS
from .supernet import Supernet
from .sweep_file import SweepRow, read_sweep

RUNS_FOLDER = Path(__file__).resolve().parent.parent / "runs"
# Names and titles of the figures that have a counterpart in the paper.
PUBLISHED = {
    "vit-small-fashion-mnist-large-budget": ("vit_performance_vs_params", "ViT Scaled Model Performance"),
    "bert-mini-sst2-small-budget": ("bert_sst2_performance_vs_params", "Scaled BERT on SST-2"),
    "bert-mini-movie-reviews-small-budget": (
        "bert_movie_reviews_performance_vs_params",
        "Scaled BERT on movie_reviews",
    ),
}


def redraw(submodels: int, examples: int, seed: int | None) -> None:
    """Evaluate a fresh sample of every bundled checkpoint and draw it over its stored sweep.

    Stored sweeps of checkpoints that are not bundled are drawn by themselves. Raises `CheckpointError` when there
    is no checkpoint at all.
    """
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    if not (names := checkpoints.bundled()):
        folder = checkpoints.BUNDLED_FOLDER
        raise CheckpointError(f"no checkpoint in {folder}: fetch one, or make one with make train NAME=...")
    for name in names:
        _with_fresh_sample(name, submodels, examples, seed)
    for path in sorted((plotting.FIGURES / "data").glob("*.jsonl")):
        if path.stem not in names and (rows := [row for row in read_sweep(path) if row.split == "test"]):
            print(f"{path.stem}: not bundled (make train NAME={path.stem}); drawn from its {len(rows)} stored rows")
            _stored(path.stem, rows)


def _with_fresh_sample(name: str, submodels: int, examples: int, seed: int) -> None:
    from .data import load_split

    supernet = Supernet.from_pretrained(name)
    space, metric = supernet.space, supernet.family.size_metric
    print(f"{name}: {space.count():,} submodels in the space")
    data = load_split(supernet.spec.dataset, "test", limit=examples, processor=supernet.processor)
    configs = evaluation.spread_over_size(space, submodels, np.random.default_rng(seed), metric, SIZE_TOKENS)
    print(f"evaluating {submodels} of them, drawn with --seed {seed}, on {len(data):,} test examples each")
    path = RUNS_FOLDER / f"live-{name}-{examples}-{seed}.jsonl"
    live = evaluation.sweep(supernet, configs, data, path, tokens=SIZE_TOKENS, seed=seed)
    path, fingerprint = plotting.FIGURES / "data" / f"{name}.jsonl", supernet.fingerprint
    rows = read_sweep(path)
    stored = [row for row in rows if row.fingerprint == fingerprint]
    if len(stored) < len(rows):
        print(f"{path}: {len(rows) - len(stored)} rows belong to other weights and are left out of the figure")
    ends = {row.config: row for row in stored}
    full, smallest = ends.get(space.largest()), ends.get(space.smallest())
    title = f"{supernet.family.label} Scaled Model Performance"
    _draw(name, title, stored, metric, live=live, full=full, smallest=smallest, count=space.count())


def _stored(name: str, rows: list[SweepRow]) -> None:
    # what a checkpoint's family would say: text models are sized without their embeddings
    data = DATASETS.get(rows[0].dataset)
    metric = "encoder_parameters" if data is not None and data.encoding is Tokens else "parameters"
    rows.sort(key=lambda row: row.parameters)
    _draw(name, f"{name} Scaled Model Performance", rows, metric, full=rows[-1], smallest=rows[0])


def _draw(
    name: str,
    title: str,
    rows: list[SweepRow],
    metric: str,
    *,
    live: list[SweepRow] | None = None,
    full: SweepRow | None,
    smallest: SweepRow | None,
    count: int | None = None,
) -> None:
    stem, title = PUBLISHED.get(name, (f"{name}_performance_vs_params", title))
    ax = plotting.plot_accuracy_vs_parameters(
        rows, title=title, metric=metric, live=live or (), full=full, smallest=smallest, count=count
    )
    figure = ax.get_figure(root=True)
    assert figure is not None
    for path in plotting.save_figure(figure, stem, plotting.FIGURES):
        print(f"wrote {path}")
